"""Detectron2's Mask R-CNN R50-FPN with our weights, if it is installed. `benchmarks/detectron2.sh` builds it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import detectors
from maskrcnn.data.loader import TrainBatch
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.weights.detectron2 import theirs

LEVELS = ["p2", "p3", "p4", "p5"]


def is_installed() -> bool:
    """Whether Detectron2 can be imported."""
    return importlib.util.find_spec("detectron2") is not None


def with_weights_of(own: MaskRCNN, device: torch.device, regions: int = 512) -> Any:
    """Build the model of COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x with the weights of ``own``.

    Differences from the published config, so that both sides compute the same: two samples per axis and bin in the RoI
    operator, strides in the 3x3 convolutions, pixels divided by their standard deviation.

    Args:
        own: the first of `detectors.pair`.
        device: of the model.
        regions: regions per image that the heads are trained on.
    """
    from detectron2.modeling import build_model

    model = build_model(_config(device, regions))
    state = {}
    for name, value in own.state_dict().items():
        other = theirs(name)
        assert other is not None, name
        other = re.sub(r"^backbone\.(stem|res)", r"backbone.bottom_up.\1", other)
        state[other] = value.flip(1) if other.endswith("stem.conv1.weight") else value  # its images are BGR
    missing, unexpected = model.load_state_dict(state, strict=False)
    left = [name for name in missing if "anchor" not in name and not name.startswith("pixel_")]
    if left or unexpected:
        raise RuntimeError(f"Detectron2's model has other weights: {left[:5]} {unexpected[:5]}")
    return model


def _config(device: torch.device, regions: int) -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE, model.MASK_ON, model.WEIGHTS = str(device), True, ""
    model.BACKBONE.NAME, model.BACKBONE.FREEZE_AT = "build_resnet_fpn_backbone", 2
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.RESNETS.STRIDE_IN_1X1 = False
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.RPN.IN_FEATURES = [*LEVELS, "p6"]
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.PRE_NMS_TOPK_TEST = 2000, 1000
    model.RPN.POST_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TEST = 2000, 1000
    model.ROI_HEADS.NAME, model.ROI_HEADS.IN_FEATURES = "StandardROIHeads", LEVELS
    model.ROI_HEADS.NUM_CLASSES, model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = detectors.NUM_CLASSES, regions
    model.ROI_BOX_HEAD.NAME, model.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 2
    model.ROI_BOX_HEAD.POOLER_RESOLUTION, model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 7, 2
    model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.NUM_CONV = "MaskRCNNConvUpsampleHead", 4
    model.ROI_MASK_HEAD.POOLER_RESOLUTION, model.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 14, 2
    model.PIXEL_MEAN, model.PIXEL_STD = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
    return cfg


def inputs(batch: TrainBatch) -> list[dict[str, Any]]:
    """Convert a batch: BGR images ``[3, H, W]`` without padding, and full masks of the objects."""
    from detectron2.structures import BitMasks, Boxes, Instances

    sizes = batch.images.sizes.int().tolist()
    found = []
    for n, (objects, (height, width)) in enumerate(
        zip(detectors.for_torchvision(batch)[1], sizes, strict=True)
    ):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(objects["boxes"])
        instances.gt_classes = objects["labels"] - 1
        instances.gt_masks = BitMasks(objects["masks"].bool())
        pixels = batch.images.pixels[n, :, :height, :width].flip(0)
        found.append({"image": pixels, "height": height, "width": width, "instances": instances})
    return found


def step(model: Any, batch: TrainBatch, lr: float) -> Callable[[], dict[str, Tensor]]:
    """A step of detectron2.engine.SimpleTrainer in float32."""
    from detectron2.utils.events import EventStorage

    given = inputs(batch)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=lr, momentum=0.9, weight_decay=1e-4)
    model.train()

    def call() -> dict[str, Tensor]:
        with EventStorage():
            losses = model(given)
        total = sum(losses.values())
        if not torch.isfinite(total.detach()).item():
            raise RuntimeError(f"Detectron2's loss is not finite: {losses}")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return dict(losses)

    return call


def detection(model: Any, batch: TrainBatch) -> Callable[[], Any]:
    """Detection in float32, with masks of the image's size."""
    given = [{name: one[name] for name in ("image", "height", "width")} for one in inputs(batch)]
    model.eval()

    @torch.no_grad()
    def call() -> Any:
        return model(given)

    return call
