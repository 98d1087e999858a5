"""torchvision's detectors with random weights that find something, and real images with their objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import (
    MaskRCNN,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.data.dataset import Example
from maskrcnn.data.formats.coco import CocoDataset


def frozen_maskrcnn(**settings: Any) -> nn.Module:
    """``maskrcnn_resnet50_fpn`` as it is with its published weights: frozen norms that add nothing to the variance."""
    body = resnet50(weights=None, norm_layer=partial(FrozenBatchNorm2d, eps=0.0))
    return MaskRCNN(_resnet_fpn_extractor(body, 3), num_classes=settings.pop("num_classes", 91), **settings)


def bare(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return partial(build, weights=None, weights_backbone=None)


FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "mask_frozen": frozen_maskrcnn,
    "mask_v1": bare(maskrcnn_resnet50_fpn),
    "mask_v2": bare(maskrcnn_resnet50_fpn_v2),
    "faster_v1": bare(fasterrcnn_resnet50_fpn),
    "faster_v2": bare(fasterrcnn_resnet50_fpn_v2),
    "keypoint": bare(keypointrcnn_resnet50_fpn),
}


def lively(module: Any, images: list[Tensor]) -> Any:
    """Norms that normalise the features of ``images`` ``[3, H, W]`` (0..1), and outputs of some spread, in place."""

    def fit_norm(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].double()
        dims = (0, 2, 3)
        layer.running_mean.copy_(values.mean(dims) + 0.1 * torch.randn(values.shape[1]))  # type: ignore[operator, union-attr]
        layer.running_var.copy_(values.var(dims) * (0.8 + 0.4 * torch.rand(values.shape[1])) + 1e-3)  # type: ignore[operator, union-attr]

    def spread(layer: nn.Module, inputs: tuple[Tensor], output: Tensor, wanted: float) -> Tensor:
        """Each output has mean 0 over places or regions, and all together the deviation that is wanted."""
        mean = output.mean([dim for dim in range(output.dim()) if dim != 1], keepdim=True)
        factor = wanted / float((output - mean).std())
        layer.bias.sub_(mean.flatten()).mul_(factor)  # type: ignore[operator, union-attr]
        layer.weight.mul_(factor)  # type: ignore[operator, union-attr]
        return (output - mean) * factor

    outputs = {
        "cls_logits": 1.5,
        "cls_score": 1.0,
        "bbox_pred": 0.3,
        "mask_fcn_logits": 2.0,
        "kps_score_lowres": 2.0,
    }
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, FrozenBatchNorm2d | nn.BatchNorm2d):
            hooks.append(layer.register_forward_pre_hook(fit_norm))
        if (last := name.rpartition(".")[2]) in outputs:
            once = partial(spread, wanted=outputs[last])
            hooks.append(layer.register_forward_hook(first_time(once)))
    sizes = module.transform.min_size, module.transform.max_size
    module.transform.min_size, module.transform.max_size = (320,), 480
    with torch.no_grad():
        module.eval()(images)
    module.transform.min_size, module.transform.max_size = sizes
    for hook in hooks:
        hook.remove()
    return module


def first_time(hook: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    done: list[bool] = []

    def called(*arguments: Any) -> Tensor | None:
        return None if done else (done.append(True), hook(*arguments))[1]

    return called


def some_examples(root: Path, count: int) -> list[Example]:
    """The first images of the COCO subset with 2 to 12 objects, all of them with masks and none a crowd."""
    data = CocoDataset(root / "annotations" / "instances_val2017.json", root / "val2017")
    found: list[Example] = []
    for index in range(len(data)):
        record = data.record(index)
        if 2 <= len(record.labels) <= 12 and not record.crowd.any():
            example = data.read(index)
            if all(mask is not None for mask in example.masks):
                found.append(example)
        if len(found) == count:
            break
    return found


def as_tensor(example: Example) -> Tensor:
    """What torchvision takes: ``[3, H, W]`` in 0..1."""
    return torch.from_numpy(example.image).permute(2, 0, 1).float() / 255


def as_target(example: Example, with_keypoints: bool) -> dict[str, Tensor]:
    height, width = example.image.shape[:2]
    masks = [torch.from_numpy(mask.full(height, width)) for mask in example.masks if mask is not None]
    target = {"boxes": torch.from_numpy(example.boxes), "masks": torch.stack(masks).to(torch.uint8)}
    labels = torch.from_numpy(example.labels) + 1
    if not with_keypoints:
        return target | {"labels": labels}
    assert example.keypoints is not None
    return target | {"labels": torch.ones_like(labels), "keypoints": torch.from_numpy(example.keypoints)}


def as_persons(example: Example) -> Example:
    """Every object a person with 17 keypoints somewhere in its box, the last of them not labelled."""
    rng = np.random.default_rng(example.image_id)
    corner, far = example.boxes[:, None, :2], example.boxes[:, None, 2:]
    points = corner + rng.random((len(example.boxes), 17, 2)) * (far - corner)
    points = np.concatenate([points, np.full((*points.shape[:2], 1), 2)], 2).astype(np.float32)
    points[:, -1] = 0
    return replace(example, labels=np.zeros_like(example.labels), keypoints=points)
