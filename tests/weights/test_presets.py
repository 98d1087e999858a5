"""configs/model/torchvision_*.yaml and detectron2_*.yaml describe what the converters build, setting by setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from maskrcnn.weights import from_detectron2, from_torchvision
from tests.models.test_detector import build
from tests.weights.detectron2_names import STRUCTURES
from tests.weights.published import FAMILIES

OTHERWISE_KNOWN = {"training", "preprocessing"}  # the data's config has the latter


def plain(value: Any) -> Any:
    """Numbers, names and switches; None for parts, functions and arrays."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return None


def settings(model: nn.Module) -> dict[str, Any]:
    """Every plain attribute of every part of the model, by its place, and the shape of every tensor."""
    found: dict[str, Any] = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for place, module in model.named_modules():
        parts = {"": module} | {
            f".{key}": value
            for key, value in vars(module).items()
            if type(value).__module__.startswith("maskrcnn")
            and not isinstance(value, nn.Module)
            and key not in OTHERWISE_KNOWN
        }
        for suffix, part in parts.items():
            for key, value in vars(part).items():
                if not key.startswith("_") and key not in OTHERWISE_KNOWN:
                    found[f"{place}{suffix}.{key}"] = plain(value)
    found |= {f"learns {name}": parameter.requires_grad for name, parameter in model.named_parameters()}
    return found


def statistics(model: Any) -> list[float]:
    return [*model.pixel_mean.flatten().tolist(), *model.pixel_std.flatten().tolist()]


@pytest.mark.parametrize(
    ("preset", "family", "frozen"),
    [("torchvision_mask_rcnn", "mask_frozen", 2), ("torchvision_mask_rcnn_v2", "mask_v2", 0)],
)
def test_torchvision(preset: str, family: str, frozen: int) -> None:
    converted = from_torchvision(FAMILIES[family](num_classes=4))
    overrides = [f"model={preset}", "roi_op=align_legacy", f"model.backbone.frozen_stages={frozen}"]
    configured = build(*overrides)
    assert settings(configured) == settings(converted)
    assert statistics(configured) == pytest.approx(statistics(converted))
    assert len(settings(converted)) > 1000


@pytest.mark.parametrize(
    "kind", ["fpn", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("c4", "dc5"))]
)
def test_detectron2(kind: str) -> None:
    state = {name: torch.zeros(shape) for name, shape in STRUCTURES[kind](50, 3).items()}
    converted = from_detectron2(state)
    configured = build(f"model=detectron2_r50_{kind}", "roi_op=align", "roi_op.sampling_ratio=0")
    assert settings(configured) == settings(converted)
    assert statistics(configured) == pytest.approx(statistics(converted))
