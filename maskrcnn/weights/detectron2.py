"""Converts models of Detectron2's model zoo (R-50 and R-101; C4, DC5 and FPN).

The differences: its images are BGR, so the input channels of the first convolution are reversed. Its anchors of a cell
are ordered by size first, ours by aspect ratio first. Its pixels are not divided by a standard deviation. Its stages
have their stride in the first 1x1 convolution. Background is the last class in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Literal, cast, get_args

import torch
from maskrcnn_ops import RoIOp
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.anchors import Anchors
from maskrcnn.models.backbones.resnet import Arch, ResNet
from maskrcnn.models.detector import MaskRCNN, Sampler
from maskrcnn.models.heads.box import BoxHead
from maskrcnn.models.heads.mask import FCNPredictor, MaskHead
from maskrcnn.models.heads.trunks import ConvTrunk, Res5Trunk, TwoFCTrunk
from maskrcnn.models.pyramids import FPN, SingleMap
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.models.rpn import RPN
from maskrcnn.structures import Preprocessing
from maskrcnn.weights.torchvision_names import renamed

Published = Literal["r50_c4", "r101_c4", "r50_dc5", "r101_dc5", "r50_fpn", "r101_fpn"]

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (1.0, 1.0, 1.0)  # RGB
_SIZES, _RATIOS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
_RPN, _HEADS = "proposal_generator.rpn_head.", "roi_heads."
_CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
# Our names -> Detectron2's names; the first match counts.
_NAMES = [
    (r"backbone\.stem\.0\.", "backbone.stem.conv1."),
    (r"backbone\.stem\.1\.", "backbone.stem.conv1.norm."),
    (r"backbone\.stages\.", "backbone."),
    (r"box_head\.trunk\.res5\.", _HEADS + "res5."),
    *((rf"pyramid\.lateral\.{i}\.", f"backbone.fpn_lateral{i + 2}.") for i in range(4)),
    *((rf"pyramid\.output\.{i}\.", f"backbone.fpn_output{i + 2}.") for i in range(4)),
    (r"rpn\.head\.convs\.0\.", _RPN + "conv."),
    (r"rpn\.head\.logits\.", _RPN + "objectness_logits."),
    (r"rpn\.head\.deltas\.", _RPN + "anchor_deltas."),
    *((rf"box_head\.trunk\.layers\.{i}\.", f"{_HEADS}box_head.fc{i + 1}.") for i in range(2)),
    (r"box_head\.logits\.", _HEADS + "box_predictor.cls_score."),
    (r"box_head\.deltas\.", _HEADS + "box_predictor.bbox_pred."),
    *((rf"mask_head\.trunk\.convs\.{i}\.", f"{_HEADS}mask_head.mask_fcn{i + 1}.") for i in range(8)),
    (r"mask_head\.predictor\.upsample\.", _HEADS + "mask_head.deconv."),
    (r"mask_head\.predictor\.logits\.", _HEADS + "mask_head.predictor."),
]


def from_detectron2(state: Mapping[str, Tensor], model: MaskRCNN | Published | None = None) -> MaskRCNN:
    """Build a model with weights of Detectron2's zoo.

    Args:
        state: the state dict, see `read_weights`.
        model: the structure to build, or a model to fill in place; None derives the structure from the names. A built
            model has the settings of the zoo's configs. A given model keeps its settings; if it divides pixels by
            another standard deviation, its first convolution compensates for it.

    Raises:
        UserError: names are left over or missing, or shapes do not fit.
    """
    if not isinstance(model, MaskRCNN):
        model = _built(state, published_name(state) if model is None else model)
    found, own = to_ours(state, model), model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in found]
    wrong += [f"{name} is left over" for name in found if name not in own]
    wrong += [
        f"{name} is {list(found[name].shape)}, not {list(value.shape)}"
        for name, value in own.items()
        if name in found and found[name].shape != value.shape
    ]
    if wrong:
        raise UserError(
            f"these weights of Detectron2's do not fit: {', '.join(wrong[:5])}"
            f"{f', and {len(wrong) - 5} more' if len(wrong) > 5 else ''}"
        )
    model.load_state_dict(found)
    return model


def published_name(state: Mapping[str, Tensor]) -> Published:
    """The zoo's structure that ``state`` belongs to. Raises UserError if there is none."""
    blocks = {int(match[1]) for name in state if (match := re.search(r"\.res4\.(\d+)\.conv1\.weight$", name))}
    depth = {6: "r50", 23: "r101"}.get(len(blocks))
    if any("fpn_lateral2" in name for name in state):
        kind = "fpn"
    else:
        kind = "c4" if any(name.startswith(_HEADS + "res5.") for name in state) else "dc5"
    if depth is None or f"{_RPN}conv.weight" not in state:
        raise UserError(
            "these are not the weights of a model of Detectron2's zoo with ResNet-50 or ResNet-101 and an RPN"
            f" ({len(blocks)} blocks in res4)"
        )
    return cast(Published, f"{depth}_{kind}")


def to_ours(state: Mapping[str, Tensor], model: MaskRCNN) -> dict[str, Tensor]:
    """Convert a state dict to our names and conventions. Unknown entries keep their names.

    Entries that are not weights (pixel statistics, anchors) are used or checked, and left out.

    Args:
        state: the state dict.
        model: the model that it is for.
    """
    names = {theirs(name): name for name in model.state_dict()}
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("pixel_mean", "pixel_std") or name.endswith(".num_batches_tracked"):
            continue
        if name.startswith(_CELL_ANCHORS):
            _check_anchors(value, int(name.removeprefix(_CELL_ANCHORS)), model)
            continue
        plain = name.replace("backbone.bottom_up.", "backbone.")
        out[names.get(plain, name)] = value
    first = "backbone.stem.0.weight"
    if first in out:
        out[first] = _first_convolution(out[first], state, model)
    for name in out:
        if model.rpn is not None and name.startswith(("rpn.head.logits.", "rpn.head.deltas.")):
            out[name] = _ratios_first(out[name], model.rpn.anchors, 4 if "deltas" in name else 1)
    return out


def theirs(name: str) -> str | None:
    """Detectron2's name of our entry, without ``bottom_up`` for the backbone; None if it has no counterpart."""
    found = renamed(name, _NAMES)
    if found is None:
        return None
    found = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", found)
    return found.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")


def _rgb(state: Mapping[str, Tensor], name: str) -> list[float] | None:
    """Pixel statistics of a file, converted from BGR; None if it has none."""
    values: list[float] = state[name].flatten().flip(0).tolist() if name in state else []
    return values or None


def _first_convolution(weight: Tensor, state: Mapping[str, Tensor], model: MaskRCNN) -> Tensor:
    """Convert the first convolution from BGR to RGB, and from the file's standard deviation to the model's."""
    std = weight.new_tensor(_rgb(state, "pixel_std") or PIXEL_STD)
    own = model.pixel_std.flatten().to(std) if len(model.pixel_std) == 3 else torch.ones_like(std)
    return weight.flip(1) * (own / std).view(1, 3, 1, 1)


def _ratios_first(value: Tensor, anchors: Anchors, rows: int) -> Tensor:
    """Reorder output channels ``[sizes * ratios * rows, ...]``, ``rows`` per anchor, to our order of anchors."""
    sizes, ratios = len(anchors.sizes[0]), len(anchors.aspect_ratios)
    if len(value) != sizes * ratios * rows:
        return value
    turned: Tensor = value.unflatten(0, (sizes, ratios, rows)).transpose(0, 1).flatten(0, 2).contiguous()
    return turned


def _check_anchors(cells: Tensor, level: int, model: MaskRCNN) -> None:
    """Raise UserError if the file's anchors of a cell, ``[A, 4]`` around 0, differ from the model's."""
    if model.rpn is None:
        return
    anchors = model.rpn.anchors
    size = torch.tensor(anchors.sizes[min(level, len(anchors.sizes) - 1)])
    root = torch.tensor(anchors.aspect_ratios).sqrt()
    half = torch.stack([size[:, None] / root, size[:, None] * root], -1).flatten(0, 1) / 2  # [A, 2]
    if cells.shape[0] != len(half) or not torch.allclose(
        cells.float(), torch.cat([-half, half], 1), atol=0.5
    ):
        raise UserError(f"the file's anchors {cells.tolist()} of level {level} are not those of this model")


def _built(state: Mapping[str, Tensor], name: Published) -> MaskRCNN:
    if name not in get_args(Published):
        raise UserError(
            f"model={name!r} is none of Detectron2's that we know: {', '.join(get_args(Published))}"
        )
    arch: Arch = "resnet101" if name.startswith("r101") else "resnet50"
    kind = name.partition("_")[2]
    scores = state.get(_HEADS + "box_predictor.cls_score.weight")
    if scores is None:
        raise UserError(f"the weights have no {_HEADS}box_predictor.cls_score.weight")
    classes = len(scores) - 1
    backbone = ResNet(
        arch,
        "frozen_bn",
        last_stage=4 if kind == "c4" else 5,
        dilated=kind == "dc5",
        frozen_stages=2,
        stride_in_1x1=True,
        dilate_first=kind == "dc5",
    )
    pyramid = FPN([256, 512, 1024, 2048]) if kind == "fpn" else SingleMap(1024 if kind == "c4" else 2048)
    has_masks = _HEADS + "mask_head.predictor.weight" in state
    return MaskRCNN(
        backbone,
        pyramid,
        _rpn(pyramid.out_channels, kind == "fpn"),
        _box_head(arch, kind, pyramid.out_channels, classes),
        _mask_head(kind, pyramid.out_channels, classes) if has_masks else None,
        Sampler(512, 0.25, 0.5),
        _rgb(state, "pixel_mean") or PIXEL_MEAN,
        _rgb(state, "pixel_std") or PIXEL_STD,
        Preprocessing(800, 1333, "area", 32),
    )


def _rpn(channels: int, is_fpn: bool) -> RPN:
    sizes = [[size] for size in _SIZES] if is_fpn else [_SIZES]
    return RPN(
        channels,
        Anchors(sizes, _RATIOS, offset=0.0),
        pre_nms_train=2000 if is_fpn else 12000,
        post_nms_train=1000 if is_fpn else 2000,
        pre_nms_test=1000 if is_fpn else 6000,
        post_nms_test=1000,
        min_size=0.0,
        beta=0.0,
    )


def _pooler(side: int) -> RoIPooler:
    return RoIPooler(RoIOp(sampling_ratio=0), side)


def _box_head(arch: Arch, kind: str, channels: int, classes: int) -> BoxHead:
    trunk: nn.Module
    if kind == "c4":
        trunk, side = Res5Trunk(arch, "frozen_bn", stride=2, stride_in_1x1=True), 14
    else:
        trunk, side = TwoFCTrunk(channels, 7), 7
    return BoxHead(_pooler(side), trunk, classes, beta=0.0, num_candidates=None)


def _mask_head(kind: str, channels: int, classes: int) -> MaskHead:
    trunk = None if kind == "c4" else ConvTrunk(channels)
    predictor = partial(FCNPredictor, 2048 if kind == "c4" else 256)
    return MaskHead(_pooler(14), trunk, predictor, classes)
