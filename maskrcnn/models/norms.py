"""Normalisation layers by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

LayerNorm = Literal["frozen_bn", "bn", "sync_bn", "gn"]


def norm_layer(norm: LayerNorm, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """What makes a normalisation of so many channels; ``gn`` has 32 groups. eps: is added to the variance."""
    layers: dict[str, Callable[..., nn.Module]] = {
        "frozen_bn": FrozenBatchNorm2d,
        "bn": nn.BatchNorm2d,
        "sync_bn": nn.SyncBatchNorm,
        "gn": partial(nn.GroupNorm, 32),
    }
    return partial(layers[norm], eps=eps)


def normalised(conv: nn.Conv2d, norm: LayerNorm | None, eps: float = 1e-5) -> nn.Module:
    """The convolution by itself, or followed by a norm, in which case its bias has nothing to do and goes."""
    if norm is None:
        return conv
    conv.bias = None
    return nn.Sequential(conv, norm_layer(norm, eps)(conv.out_channels))
