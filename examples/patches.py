"""A backbone: one strided convolution per map."""

from __future__ import annotations

from torch import Tensor, nn


class Patches(nn.Module):
    """Cuts the image into patches of 4, 8, 16 and 32 pixels and projects each to ``width`` channels."""

    def __init__(self, width: int = 32, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = dict.fromkeys((4, 8, 16, 32), width)  # number of channels by stride
        self.layers = nn.ModuleList(nn.Conv2d(in_channels, width, s, stride=s) for s in self.channels)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """Compute maps ``[N, width, H/s, W/s]`` by stride s from ``[N, in_channels, H, W]``."""
        return {s: layer(pixels).relu() for s, layer in zip(self.channels, self.layers, strict=True)}
