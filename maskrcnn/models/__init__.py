"""The detector and its parts, imported lazily: ``from maskrcnn.models import FPN, RPN, Anchors, MaskRCNN``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskrcnn.models.anchors import Anchors
    from maskrcnn.models.backbones.resnet import ResNet
    from maskrcnn.models.backbones.torchvision import TorchvisionBackbone
    from maskrcnn.models.builders import faster_rcnn, mask_rcnn
    from maskrcnn.models.detector import MaskRCNN, Sampler
    from maskrcnn.models.heads.box import BoxHead
    from maskrcnn.models.heads.keypoint import KeypointHead
    from maskrcnn.models.heads.mask import FCNPredictor, MaskHead, MLPPredictor
    from maskrcnn.models.heads.trunks import ConvFCTrunk, ConvTrunk, Res5Trunk, TwoFCTrunk
    from maskrcnn.models.protocols import Backbone, MaskLoss, RoIOp
    from maskrcnn.models.pyramids import FPN, SingleMap
    from maskrcnn.models.roi_pooling import RoIPooler
    from maskrcnn.models.rpn import RPN

__all__ = [
    "FPN",
    "RPN",
    "Anchors",
    "Backbone",
    "BoxHead",
    "ConvFCTrunk",
    "ConvTrunk",
    "FCNPredictor",
    "KeypointHead",
    "MLPPredictor",
    "MaskHead",
    "MaskLoss",
    "MaskRCNN",
    "Res5Trunk",
    "ResNet",
    "RoIOp",
    "RoIPooler",
    "Sampler",
    "SingleMap",
    "TorchvisionBackbone",
    "TwoFCTrunk",
    "faster_rcnn",
    "mask_rcnn",
]

_MODULES = {
    "anchors": ["Anchors"],
    "backbones.resnet": ["ResNet"],
    "backbones.torchvision": ["TorchvisionBackbone"],
    "builders": ["faster_rcnn", "mask_rcnn"],
    "detector": ["MaskRCNN", "Sampler"],
    "heads.box": ["BoxHead"],
    "heads.keypoint": ["KeypointHead"],
    "heads.mask": ["FCNPredictor", "MLPPredictor", "MaskHead"],
    "heads.trunks": ["ConvFCTrunk", "ConvTrunk", "Res5Trunk", "TwoFCTrunk"],
    "protocols": ["Backbone", "MaskLoss", "RoIOp"],
    "pyramids": ["FPN", "SingleMap"],
    "roi_pooling": ["RoIPooler"],
    "rpn": ["RPN"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskrcnn.models' has no attribute {name!r}")
    return getattr(import_module(f"maskrcnn.models.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
