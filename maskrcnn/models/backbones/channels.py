"""Adapts RGB filters to images with any number of channels: infrared, depth, multispectral."""

from __future__ import annotations

from torch import Tensor, nn


def inflated(weight: Tensor, channels: int) -> Tensor:
    """Adapt RGB filters to another number of input channels.

    Each new filter is the mean of the three, times 3 / channels. An image with equal channels has the same response as
    before.

    Args:
        weight: ``[O, 3, k, k]``.
        channels: number of input channels.

    Returns:
        ``[O, channels, k, k]``.
    """
    shape = (weight.shape[0], channels, *weight.shape[2:])
    return (weight.mean(1, keepdim=True) * (weight.shape[1] / channels)).expand(shape).contiguous()


def inflate(conv: nn.Conv2d, channels: int) -> None:
    """Change the number of input channels of an RGB convolution in place."""
    if channels != conv.in_channels:
        conv.in_channels = channels
        conv.weight = nn.Parameter(inflated(conv.weight.detach(), channels), conv.weight.requires_grad)
