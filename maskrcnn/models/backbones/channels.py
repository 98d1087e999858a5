"""Images of other than three channels: infrared, depth, multispectral."""

from __future__ import annotations

from torch import Tensor, nn


def inflated(weight: Tensor, channels: int) -> Tensor:
    """Filters ``[O, 3, k, k]`` of RGB for ``channels`` input channels: each the mean of the three, times 3 / channels.

    So the response to an image whose channels are all alike stays what it was.
    """
    shape = (weight.shape[0], channels, *weight.shape[2:])
    return (weight.mean(1, keepdim=True) * (weight.shape[1] / channels)).expand(shape).contiguous()


def inflate(conv: nn.Conv2d, channels: int) -> None:
    """Give a convolution of RGB ``channels`` input channels, in place."""
    if channels != conv.in_channels:
        conv.in_channels = channels
        conv.weight = nn.Parameter(inflated(conv.weight.detach(), channels), conv.weight.requires_grad)
