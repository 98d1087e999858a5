"""Normalisation layers by name."""

from __future__ import annotations

import math
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


def replace_batch_norms(net: nn.Module, norm: LayerNorm) -> int:
    """Put ``norm`` in place of every batch norm of ``net``, with its values but for ``gn``; how many there were."""
    count = 0
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(parent, name, _replacement(layer, norm))
                count += 1
    return count


def _replacement(layer: nn.BatchNorm2d, norm: LayerNorm) -> nn.Module:
    if norm == "gn":  # channels of mobile networks are often no multiples of 32
        return nn.GroupNorm(math.gcd(32, layer.num_features), layer.num_features, layer.eps)
    new = norm_layer(norm, layer.eps)(layer.num_features)
    new.load_state_dict(layer.state_dict())
    return new


def normalised(conv: nn.Conv2d, norm: LayerNorm | None, eps: float = 1e-5) -> nn.Module:
    """The convolution by itself, or followed by a norm, in which case its bias has nothing to do and goes."""
    if norm is None:
        return conv
    conv.bias = None
    return nn.Sequential(conv, norm_layer(norm, eps)(conv.out_channels))
