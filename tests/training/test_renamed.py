"""Configs stored by version 0.1.0 name classes by the modules of that version."""

from __future__ import annotations

import importlib

import pytest

from maskrcnn.training.checkpoint import with_present_names

# Every ``_target_`` of the project in the configs of version 0.1.0.
TARGETS = [
    "maskrcnn.data.coco.CocoFolds",
    "maskrcnn.data.coco.CocoLayout",
    "maskrcnn.data.coco.CustomCoco",
    "maskrcnn.data.colour.ColourJitter",
    "maskrcnn.data.loader.EvalLoader",
    "maskrcnn.data.loader.TrainLoader",
    "maskrcnn.data.sbd.SbdSource",
    "maskrcnn.data.shapes.Shapes",
    "maskrcnn.data.transforms.Transform",
    "maskrcnn.data.voc.VocSource",
    "maskrcnn.models.anchors.Anchors",
    "maskrcnn.models.backbones.Res5Trunk",
    "maskrcnn.models.backbones.ResNet",
    "maskrcnn.models.box_head.BoxHead",
    "maskrcnn.models.box_head.TwoFCTrunk",
    "maskrcnn.models.keypoint_head.KeypointHead",
    "maskrcnn.models.mask_head.ConvTrunk",
    "maskrcnn.models.mask_head.FCNPredictor",
    "maskrcnn.models.mask_head.MLPPredictor",
    "maskrcnn.models.mask_head.MaskHead",
    "maskrcnn.models.mask_rcnn.MaskRCNN",
    "maskrcnn.models.mask_rcnn.Sampler",
    "maskrcnn.models.pyramids.FPN",
    "maskrcnn.models.pyramids.SingleMap",
    "maskrcnn.models.roi_pooling.RoIPooler",
    "maskrcnn.models.rpn.RPN",
    "maskrcnn.models.torchvision_backbones.TorchvisionBackbone",
    "maskrcnn.models.trunks.ConvFCTrunk",
    "maskrcnn_ops.RoIOp",
]


@pytest.mark.parametrize("target", TARGETS)
def test_every_class_of_the_earlier_version_is_found_by_its_name(target: str) -> None:
    stored = {"parts": [{"_target_": target, "size": 7}]}
    present = with_present_names(stored)["parts"][0]
    module, _, name = present["_target_"].rpartition(".")
    assert name == target.rpartition(".")[2]
    assert isinstance(getattr(importlib.import_module(module), name), type)
    assert present["size"] == 7


def test_other_values_and_other_peoples_classes_stay_as_they_are() -> None:
    stored = {"a": {"_target_": "my_operator.MyOperator", "b": [1, None, "maskrcnn.models.mask_rcnn"]}}
    assert with_present_names(stored) == stored


def test_keys_and_modules_of_0_1_0_get_their_present_names() -> None:
    stored = {
        "model": {"_target_": "maskrcnn.models.mask_rcnn.MaskRCNN", "parts": [{"fast": 1}]},
        "evaluation": {"every": 5, "fast": True, "details": False},
    }
    assert with_present_names(stored) == {
        "model": {"_target_": "maskrcnn.models.detector.MaskRCNN", "parts": [{"fast": 1}]},
        "evaluation": {"every": 5, "backend": None, "details": False},
    }
