"""Exports a detector as one graph: torch.export's, and ONNX made from it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from maskrcnn.errors import UserError
from maskrcnn.export.operators import ExportedRoIOp
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Images

OPSET = 18
_EXAMPLE = (256, 320)  # (height, width) of the traced image; the graph does not depend on it
_LEAST = 96  # pixels; the coarsest map of a smaller image is one cell wide, a special case for graphs


class Graph(nn.Module):
    """The exported graph: `MaskRCNN.detect` of one image, with tensors as inputs and outputs.

    Inputs are ``pixels`` ``[1, 3, H, W]`` uint8 RGB and ``size`` ``[1, 2]`` float32. H and W are multiples of
    ``divisor`` and at least 96; the image is padded with zeros to the right and below. ``size`` is its (height, width)
    before padding. `names` lists the outputs.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """The fields of `Detections` that the model has, in the order of `names`."""
        found = self.model.detect(Images(pixels, size))
        fields = (found.boxes, found.scores, found.labels, found.valid, found.masks, found.keypoints)
        return tuple(field for field in fields if field is not None)

    @property
    def names(self) -> list[str]:
        """Names of the outputs: boxes ``[1, D, 4]``, scores, labels, valid ``[1, D]``, then those of the heads.

        A mask head adds masks ``[1, D, M, M]`` (probabilities within the box), and a keypoint head keypoints ``[1, D,
        J, 3]``.
        """
        heads = {"masks": self.model.mask_head, "keypoints": self.model.keypoint_head}
        return ["boxes", "scores", "labels", "valid", *(n for n, head in heads.items() if head is not None)]


def exportable(model: MaskRCNN) -> Graph:
    """Copy a model to the CPU, with RoI operators that can be exported.

    Raises:
        UserError: the model has no RPN or no box head, or an operator cannot be exported.
    """
    if model.rpn is None or model.box_head is None:
        raise UserError(
            "only a model with an RPN and a box head can be exported: it finds its boxes by itself"
        )
    model = copy.deepcopy(model).cpu().float().eval()
    for module in model.modules():
        if isinstance(module, RoIPooler):
            module.operator = ExportedRoIOp(module.operator)
    return Graph(model.requires_grad_(False))


@torch.no_grad()
def to_program(model: MaskRCNN, divisor: int = 32) -> ExportedProgram:
    """Export a model by torch.export, for one image of any size.

    The saved file needs torch, torchvision and maskrcnn_ops to be imported where it is loaded.

    Args:
        model: the detector.
        divisor: height and width must be multiples of this.
    """
    graph = exportable(model)
    height, width = (-(-side // divisor) * divisor for side in _EXAMPLE)
    example = (
        torch.zeros(1, 3, height, width, dtype=torch.uint8),
        torch.tensor([[height - 5.0, width - 3.0]]),
    )
    least = -(-_LEAST // divisor)
    sides = {axis: divisor * Dim(name, min=least, max=512) for axis, name in ((2, "rows"), (3, "columns"))}
    return torch.export.export(graph, example, dynamic_shapes=(sides, None), strict=False)


def save_program(model: MaskRCNN, path: Path, divisor: int = 32) -> None:
    """Write a model to a file for `torch.export.load`.

    Args:
        model: the detector.
        path: the file.
        divisor: height and width must be multiples of this.
    """
    torch.export.save(to_program(model, divisor), path)


def save_onnx(model: MaskRCNN, path: Path, divisor: int = 32) -> None:
    """Write a model as ONNX with standard operators only, including its weights.

    Args:
        model: the detector.
        path: the file.
        divisor: height and width must be multiples of this.

    Raises:
        UserError: the packages onnx and onnxscript are missing.
    """
    try:
        from maskrcnn.export.onnx_operators import translations
    except ImportError as error:
        raise UserError(
            f"format=onnx needs onnx and onnxscript: pip install 'maskrcnn[export]' ({error})"
        ) from error
    names = exportable(model).names
    table: dict[Callable[..., Any], Callable[..., Any]] = translations()
    program = torch.onnx.export(
        to_program(model, divisor),
        dynamo=True,
        input_names=["pixels", "size"],
        output_names=names,
        opset_version=OPSET,
        custom_translation_table=table,
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=False)
