"""Our Mask R-CNN R50-FPN and torchvision's with the same weights, on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, get_args

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.data.formats.shapes import Shapes
from maskrcnn.data.loader import TrainBatch, TrainLoader
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.structures import Targets

NUM_CLASSES = 90  # torchvision's 91 with background
TrainTargets = list[dict[str, Tensor]]
# What torchvision computes: anchors at the corners of the cells, RoIAlign without the half pixel.
SETTINGS = [
    "model=r50_fpn",
    "roi_op=align_legacy",
    f"num_classes={NUM_CLASSES}",
    "model.rpn.anchors.offset=0.0",
    "model.backbone.norm=frozen_bn",
    "model.backbone.frozen_stages=2",
]


def known_precision(name: str) -> Precision:
    """A precision by its name. Raises UserError for another word."""
    for precision in get_args(Precision):
        if precision == name:
            known: Precision = precision
            return known
    raise UserError(f"{name}: of precisions there are {', '.join(get_args(Precision))}")


def pictures(folder: str, count: int, size: tuple[int, int]) -> TrainBatch:
    """``count`` generated images of ``size`` (height, width) as a training batch; objects as in
    configs/data/shapes.yaml."""
    side = max(size)
    source = Shapes(folder, count, 1, side, min_radius=side / 24, max_radius=side * 36 / 192)
    return next(islice(TrainLoader(source.train(), Transform(crop=size), count).batches(), 1))


def pair(batch: TrainBatch, regions: int = 512) -> tuple[MaskRCNN, TorchvisionMaskRCNN]:
    """Ours and torchvision's with the same random weights, frozen norms set to the statistics of ``batch``.

    batch: images of one size. regions: of an image that the heads learn from.
    """
    torch.manual_seed(0)
    config = configs.compose_config("train", [*SETTINGS, f"model.sampler.num_samples={regions}"])
    own = assembly.build_model(config)
    peer = _torchvisions(own, [int(side) for side in batch.images.sizes[0]], regions)
    with _calibrated(peer), torch.no_grad():
        peer.backbone(peer.transform(for_torchvision(batch)[0])[0].tensors)
    values = own.state_dict()
    for name, value in peer.state_dict().items():
        if "running" in name:
            values[_our_name(name)].copy_(value)
    return own, peer


@contextmanager
def _calibrated(model: nn.Module) -> Iterator[None]:
    """Every frozen norm takes the mean and variance of what passes through it: a network that learned would have them,
    and without them the activations of random weights explode."""

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        norm.running_mean.copy_(x.mean((0, 2, 3)))  # type: ignore[operator]
        norm.running_var.copy_(x.var((0, 2, 3)))  # type: ignore[operator]

    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _torchvisions(model: MaskRCNN, size: list[int], regions: int) -> TorchvisionMaskRCNN:
    """What `maskrcnn_resnet50_fpn` builds for fine-tuning (frozen norms, stem and res2), with our weights."""
    net = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
    peer = TorchvisionMaskRCNN(  # type: ignore[no-untyped-call]
        _resnet_fpn_extractor(net, 3),
        NUM_CLASSES + 1,
        min_size=min(size),
        max_size=max(size),
        box_batch_size_per_image=regions,
    )
    own = model.state_dict()
    given = {name: own[_our_name(name)] for name in peer.state_dict()}
    for part in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"):
        for kind in ("weight", "bias"):
            name = f"roi_heads.{part}.{kind}"
            given[name] = _background_first(given[name], part)
    peer.load_state_dict(given)
    return peer


_RENAMED = [
    ("backbone.body.conv1", "backbone.stem.0"),
    ("backbone.body.bn1", "backbone.stem.1"),
    *((f"backbone.body.layer{stage - 1}", f"backbone.stages.res{stage}") for stage in (2, 3, 4, 5)),
    *((f"backbone.fpn.inner_blocks.{level}.0", f"pyramid.lateral.{level}") for level in range(4)),
    *((f"backbone.fpn.layer_blocks.{level}.0", f"pyramid.output.{level}") for level in range(4)),
    ("rpn.head.conv.0.0", "rpn.head.convs.0"),
    ("rpn.head.cls_logits", "rpn.head.logits"),
    ("rpn.head.bbox_pred", "rpn.head.deltas"),
    ("roi_heads.box_head.fc6", "box_head.trunk.layers.0"),
    ("roi_heads.box_head.fc7", "box_head.trunk.layers.1"),
    ("roi_heads.box_predictor.cls_score", "box_head.logits"),
    ("roi_heads.box_predictor.bbox_pred", "box_head.deltas"),
    *((f"roi_heads.mask_head.{i}.0", f"mask_head.trunk.convs.{i}") for i in range(4)),
    ("roi_heads.mask_predictor.conv5_mask", "mask_head.predictor.upsample"),
    ("roi_heads.mask_predictor.mask_fcn_logits", "mask_head.predictor.logits"),
]


def _our_name(name: str) -> str:
    return next(own + name.removeprefix(theirs) for theirs, own in _RENAMED if name.startswith(theirs + "."))


def _background_first(values: Tensor, part: str) -> Tensor:
    """torchvision's class 0 is the background, ours the last one, and ours has neither boxes nor masks for it."""
    if part == "box_predictor.cls_score":
        return values.roll(1, 0)
    rows = 4 if part == "box_predictor.bbox_pred" else 1
    return torch.cat([values.new_zeros(rows, *values.shape[1:]), values])


def for_torchvision(batch: TrainBatch) -> tuple[list[Tensor], TrainTargets]:
    """The batch as torchvision wants it: images ``[3, H, W]`` in 0..1, unpadded, and full masks of the objects."""
    sizes = batch.images.sizes.int().tolist()
    images = [p[:, :h, :w].float() / 255 for p, (h, w) in zip(batch.images.pixels, sizes, strict=True)]
    return images, [_objects(batch.targets, n, images[n].shape[-2:]) for n in range(len(images))]


def _objects(targets: Targets, n: int, size: Any) -> dict[str, Tensor]:
    there = targets.valid[n]
    masks = targets.masks
    assert masks is not None
    full = torch.zeros(int(there.sum()), *size, dtype=torch.uint8)
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing="ij")
    for row, g in enumerate(there.nonzero().flatten().tolist()):
        scale_x, scale_y, shift_x, shift_y = masks.to_bitmap[n, g].tolist()
        height, width = masks.size[n, g].tolist()
        column, line = (x * scale_x + shift_x).floor().long(), (y * scale_y + shift_y).floor().long()
        inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
        full[row][inside] = masks.bits[int(masks.offset[n, g]) + line[inside] * width + column[inside]]
    return {"boxes": targets.boxes[n][there], "labels": targets.labels[n][there] + 1, "masks": full}
