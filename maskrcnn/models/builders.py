"""Complete detectors in one call: ``mask_rcnn("resnet50", num_classes=3)``.

They consist of the same classes that a config names. Other settings are the defaults of the constructors.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, get_args

from maskrcnn_ops import PRESETS
from maskrcnn_ops import RoIOp as Operator
from torch import nn

from maskrcnn.errors import UserError
from maskrcnn.models.anchors import Anchors
from maskrcnn.models.backbones.pretrained import measured_channels
from maskrcnn.models.backbones.resnet import Arch, ResNet
from maskrcnn.models.backbones.torchvision import TorchvisionArch, TorchvisionBackbone
from maskrcnn.models.detector import MaskRCNN, Sampler
from maskrcnn.models.heads.box import BoxHead
from maskrcnn.models.heads.mask import FCNPredictor, MaskHead
from maskrcnn.models.heads.trunks import ConvTrunk, Res5Trunk, TwoFCTrunk
from maskrcnn.models.norms import Norm, chosen_norm
from maskrcnn.models.protocols import RoIOp
from maskrcnn.models.pyramids import FPN, SingleMap
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.models.rpn import RPN

Pyramid = Literal["fpn", "c4", "c5"]
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Models on one map have more anchors per cell, and fewer regions for the heads.
_ONE_MAP: dict[str, Any] = {
    "pre_nms_train": 12000,
    "post_nms_train": 2000,
    "pre_nms_test": 6000,
    "post_nms_test": 300,
}
_SMALL: dict[str, Any] = {
    "pre_nms_train": 500,
    "post_nms_train": 300,
    "pre_nms_test": 300,
    "post_nms_test": 100,
}


def mask_rcnn(
    backbone: str | nn.Module = "resnet50",
    num_classes: int = 80,
    roi_op: str | RoIOp = "align",
    pyramid: Pyramid = "fpn",
    weights: str | None = None,
    *,
    norm: Norm = "auto",
    frozen_stages: int | None = None,
    small: bool = False,
    score_threshold: float = 0.05,
) -> MaskRCNN:
    """Mask R-CNN (He et al., 2017).

    Args:
        backbone: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnext101_64x4d``, one of torchvision's
            other networks (``mobilenet_v3_large``, ``convnext_tiny``, ...), ``timm/<name>``, or your own module
            that maps ``[N, 3, H, W]`` to ``{stride: [N, C, H/stride, W/stride]}``.
        num_classes: number of classes without background (torchvision counts the background too).
        roi_op: name of a preset (``align``, ``pool``, ``warp``, ...), or your own operator.
        pyramid: ``fpn``, or only the last map: ``c4`` (stride 16, res5 in the heads) or ``c5`` (stride 32).
        weights: weights of the backbone: None (random), ``imagenet``, the name of a torchvision weight set, or a file
            with a classifier's state dict. To load a detector's file, call ``maskrcnn.initialise(model, path)``.
        norm: norm of the backbone: ``frozen_bn``, ``bn``, ``sync_bn`` or ``gn``. ``auto`` is ``frozen_bn`` with
            pretrained weights, ``bn`` without.
        frozen_stages: number of stages of the backbone that are not trained; None is 2 with pretrained weights, 0
            without.
        small: use narrow heads, few regions and anchors of half the size, for small images and training from scratch
            on a CPU. The configs ``r18_*`` are these models.
        score_threshold: drop detections with a lower score.

    Returns:
        The model, in training mode.

    Raises:
        UserError: unknown name, or weights that cannot be loaded.
    """
    return _Builder(**locals()).build(masks=True)


def faster_rcnn(
    backbone: str | nn.Module = "resnet50",
    num_classes: int = 80,
    roi_op: str | RoIOp = "align",
    pyramid: Pyramid = "fpn",
    weights: str | None = None,
    *,
    norm: Norm = "auto",
    frozen_stages: int | None = None,
    small: bool = False,
    score_threshold: float = 0.05,
) -> MaskRCNN:
    """Faster R-CNN (Ren et al., 2015): `mask_rcnn` without the mask head.

    Args:
        backbone: see `mask_rcnn`, as for all arguments.
        num_classes: number of classes without background.
        roi_op: name of a preset, or your own operator.
        pyramid: ``fpn``, ``c4`` or ``c5``.
        weights: weights of the backbone.
        norm: norm of the backbone.
        frozen_stages: number of stages of the backbone that are not trained.
        small: use narrow heads, few regions and small anchors.
        score_threshold: drop detections with a lower score.
    """
    return _Builder(**locals()).build(masks=False)


class _Builder:
    """The arguments of `mask_rcnn`, and the parts that they describe."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.num_classes, self.small = arguments["num_classes"], arguments["small"]
        self.pyramid: Pyramid = arguments["pyramid"]
        if self.pyramid not in get_args(Pyramid):
            raise UserError(f"pyramid={self.pyramid!r} is none of {', '.join(get_args(Pyramid))}")
        self.operator = _operator(arguments["roi_op"])
        self.backbone = self._backbone(arguments["backbone"])
        channels = getattr(self.backbone, "channels", None) or measured_channels(self.backbone)
        self.channels: list[int] = list(channels.values())

    def build(self, masks: bool) -> MaskRCNN:
        pyramid = self._pyramid()
        rpn = self._rpn(pyramid.out_channels)
        sampler = Sampler(64) if self.small or self.pyramid != "fpn" else Sampler()
        box_head = BoxHead(
            RoIPooler(self.operator, 7),
            self._box_trunk(pyramid.out_channels),
            self.num_classes,
            score_threshold=self.arguments["score_threshold"],
        )
        mask_head = self._mask_head(pyramid.out_channels, box_head) if masks else None
        mean = tuple(getattr(self.backbone, "pixel_mean", IMAGENET_MEAN))
        std = tuple(getattr(self.backbone, "pixel_std", IMAGENET_STD))
        model = MaskRCNN(self.backbone, pyramid, rpn, box_head, mask_head, sampler, mean, std)
        model.recipe = self._recipe(mask_rcnn if masks else faster_rcnn)
        return model

    def _backbone(self, given: str | nn.Module) -> nn.Module:
        if isinstance(given, nn.Module):
            return given
        chosen = {key: self.arguments[key] for key in ("norm", "weights", "frozen_stages")}
        if given in get_args(Arch):
            return ResNet(given, last_stage=4 if self.pyramid == "c4" else 5, **chosen)  # type: ignore[arg-type]
        kind: Any = TorchvisionBackbone
        if given.startswith("timm/"):
            from maskrcnn.models.backbones.timm import TimmBackbone as kind  # an optional package
        else:
            _check_known("backbone", given, [*get_args(Arch), *get_args(TorchvisionArch)], ", timm/<name>")
        backbone: nn.Module = kind(given, last_stride=16 if self.pyramid == "c4" else 32, **chosen)
        return backbone

    def _pyramid(self) -> FPN | SingleMap:
        if self.pyramid != "fpn":
            return SingleMap(self.channels[-1])
        return FPN(self.channels, 64) if self.small else FPN(self.channels)

    def _rpn(self, in_channels: int) -> RPN:
        scale = 2 if self.small else 1
        sizes: list[list[float]] = [[32 / scale], [64 / scale], [128 / scale], [256 / scale], [512 / scale]]
        if self.pyramid != "fpn":
            flat = [size for level in sizes for size in level]
            sizes = [flat[:4] if self.small else flat]
        counts = _SMALL if self.small else {} if self.pyramid == "fpn" else _ONE_MAP
        return RPN(in_channels, Anchors(sizes), **counts)

    def _box_trunk(self, in_channels: int) -> nn.Module:
        if self.pyramid == "c4":
            arch = self.arguments["backbone"]
            if arch not in get_args(Arch):
                raise UserError(
                    f"pyramid='c4' has the res5 of a residual network in its heads; backbone={arch!r}"
                )
            return Res5Trunk(arch, self.arguments["norm"], self.arguments["weights"])
        return TwoFCTrunk(in_channels, 7, {"fpn": 256, "c5": 512}[self.pyramid] if self.small else 1024)

    def _mask_head(self, in_channels: int, box_head: BoxHead) -> MaskHead:
        dim: int = {"fpn": 64, "c4": 128, "c5": 128}[self.pyramid] if self.small else 256
        if self.pyramid == "c4":
            channels: int = box_head.trunk.out_channels  # type: ignore[assignment]
            predictor = partial(FCNPredictor, channels, dim=dim)
            return MaskHead(RoIPooler(self.operator, 7), None, predictor, self.num_classes)
        trunk = ConvTrunk(in_channels, dim, 2) if self.small else ConvTrunk(in_channels)
        predictor = partial(FCNPredictor, trunk.out_channels, dim=dim)
        return MaskHead(RoIPooler(self.operator, 14), trunk, predictor, self.num_classes)

    def _recipe(self, function: Callable[..., MaskRCNN]) -> dict[str, Any] | None:
        """The call as plain values, with which a checkpoint rebuilds the model; None if it has custom parts."""
        plain = dict(self.arguments)
        if isinstance(plain["backbone"], nn.Module):
            return None
        # A checkpoint has its own weights, so settle here what depends on the pretrained ones.
        plain["norm"] = chosen_norm(plain["norm"], plain["weights"])
        if plain["frozen_stages"] is None:
            plain["frozen_stages"] = 2 if plain["weights"] else 0
        if not isinstance(plain["roi_op"], str):
            if type(self.operator) is not Operator:
                return None
            plain["roi_op"] = {"_target_": "maskrcnn_ops.RoIOp", **asdict(self.operator)}
        return {"_target_": f"{function.__module__}.{function.__name__}", **plain}


def _operator(given: str | RoIOp) -> RoIOp:
    if not isinstance(given, str):
        return given
    _check_known("roi_op", given, list(PRESETS))
    return Operator.preset(given)


def _check_known(key: str, given: str, known: list[str], others: str = "") -> None:
    if given not in known:
        close = difflib.get_close_matches(given, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{key}={given!r} is unknown{hint} There are: {', '.join(known)}{others}")
