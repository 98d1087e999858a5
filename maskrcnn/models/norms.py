"""Normalisation layers by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.errors import UserError
from maskrcnn.models.precision import full_precision

LayerNorm = Literal["frozen_bn", "bn", "sync_bn", "gn"]
Norm = Literal["auto", "frozen_bn", "bn", "sync_bn", "gn"]


def chosen_norm(norm: Norm, weights: str | None) -> LayerNorm:
    """Resolve ``auto``: ``frozen_bn`` with pretrained weights, ``bn`` without.

    Raises:
        UserError: group norm with pretrained weights.
    """
    if weights and norm == "gn":
        raise UserError(
            f"norm=gn has no pretrained weights (weights={weights} were trained with batch norm); "
            "set norm=frozen_bn, or weights=null to train from scratch"
        )
    return ("frozen_bn" if weights else "bn") if norm == "auto" else norm


def norm_layer(norm: LayerNorm, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """Return a function that makes a norm layer for a number of channels.

    Args:
        norm: name of the norm; ``gn`` has 32 groups.
        eps: added to the variance.
    """
    layers: dict[str, Callable[..., nn.Module]] = {
        "frozen_bn": FrozenBatchNorm2d,
        "bn": nn.BatchNorm2d,
        "sync_bn": nn.SyncBatchNorm,
        "gn": partial(nn.GroupNorm, 32),
    }
    return partial(layers[norm], eps=eps)


def replace_batch_norms(net: nn.Module, norm: LayerNorm) -> int:
    """Replace every batch norm of a network.

    Args:
        net: changed in place.
        norm: name of the new norm. It keeps the old values, except for ``gn``. ``bn`` changes nothing.

    Returns:
        The number of replaced layers.
    """
    count = 0
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            if norm != "bn" and isinstance(layer, nn.BatchNorm2d):
                setattr(parent, name, _replacement(layer, norm))
                count += 1
    return count


def _replacement(layer: nn.BatchNorm2d, norm: LayerNorm) -> nn.Module:
    if norm == "gn":  # the channels of mobile networks are often not multiples of 32
        return nn.GroupNorm(math.gcd(32, layer.num_features), layer.num_features, layer.eps)
    new = norm_layer(norm, layer.eps)(layer.num_features)
    new.load_state_dict(layer.state_dict())
    return new


def normalised(conv: nn.Conv2d, norm: LayerNorm | None, eps: float = 1e-5) -> nn.Module:
    """Return the convolution, followed by a norm if one is given.

    Args:
        conv: the convolution. With a norm, its bias has no effect and is removed.
        norm: name of the norm; None is none.
        eps: added to the variance.
    """
    if norm is None:
        return conv
    conv.bias = None
    return nn.Sequential(conv, norm_layer(norm, eps)(conv.out_channels))


def batch_norm_of(norm: nn.Module, x: Tensor, used: Tensor) -> Tensor:
    """Apply batch norm in training mode to some of the regions.

    Empty regions change neither the output of the others nor the running statistics.

    Args:
        norm: a batch norm, whose running statistics are updated.
        x: regions ``[R, C, P, P]``.
        used: ``[R]`` bool, the regions that count.
    """
    assert isinstance(norm, nn.BatchNorm2d)
    values, weight = full_precision(x), used[:, None, None, None]
    count = used.sum() * x.shape[2] * x.shape[3]
    divisor = count.clamp(min=1)
    mean = (values * weight).sum((0, 2, 3)) / divisor
    centred = values - mean[:, None, None]
    var = (centred.square() * weight).sum((0, 2, 3)) / divisor
    _track(norm, mean.detach(), var.detach() * divisor / (count - 1).clamp(min=1), count > 0)
    scale = norm.weight * (var + norm.eps).rsqrt()
    return (centred * scale[:, None, None] + norm.bias[:, None, None]).to(x.dtype)


@torch.no_grad()
def _track(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, seen: Tensor) -> None:
    assert norm.momentum is not None
    for name, value in (("running_mean", mean), ("running_var", var)):
        running = norm.get_buffer(name)
        running.lerp_(value.to(running.dtype), (seen * norm.momentum).to(running.dtype))
    norm.get_buffer("num_batches_tracked").add_(seen)
