"""The points of the regions that the PyTorch reference computes at once, and the cells that they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import Points, choose_levels, points_of
from .switches import Switches

CHUNK_ELEMENTS = 1 << 23  # bound on the values gathered at once


@dataclass(frozen=True)
class Piece:
    """Some regions of one level and some channels, few enough to compute at once.

    Attributes:
        level: index of the map.
        size: (H, W) of the map.
        regions: [R] indices of the regions.
        image: [R] their images.
        channels: channels of the output.
        group: number of bins that read channels of their own: P * Q for position-sensitive operators, else 1.
        y, x: the points of the regions along both axes.
        whole: whether the points are cells (bin_rounding).
    """

    level: int
    size: tuple[int, int]
    regions: Tensor
    image: Tensor
    channels: slice
    group: int
    y: Points
    x: Points
    whole: bool

    def of(self, values: Tensor) -> Tensor:
        """Select the regions and channels of values [R, C, P, Q], as [R, P, 1, Q, 1, C]."""
        return values[self.regions][:, self.channels].permute(0, 2, 3, 1)[:, :, None, :, None]

    def used(self) -> Tensor:
        """Return which points exist, [R, P, M, Q, L]."""
        return self.y.used[:, :, :, None, None] & self.x.used[:, None, None]

    def numbers(self) -> Tensor:
        """Return the number of every point as a winner, see :func:`roi_maximum`, [R, P, M, Q, L]."""
        (_, bins, rows), columns = self.y.low.shape, self.x.low.shape[2]
        m, n = (torch.arange(count, device=self.image.device) for count in (rows, columns))
        if self.whole:
            row = (self.y.first[..., None] + m)[..., None, None] * self.size[1]
            return row + (self.x.first[..., None] + n)[:, None, None]
        numbers = m[:, None, None] * self.x.count[:, None, None, :, None] + n
        return numbers.expand(-1, bins, -1, -1, -1)

    def corners(self) -> list[tuple[Tensor, Tensor]]:
        """Return the four rows of the flattened map that every point reads, and their weights: [R, P, M, Q, L]."""
        y, x, group = self.y, self.x, self.group
        bins = torch.arange(group, device=self.image.device)
        bins = bins.view(y.low.shape[1], 1, -1, 1) if group > 1 else bins
        rows = [(y.low, 1 - y.high_weight), (y.high, y.high_weight)]
        columns = [(x.low, 1 - x.high_weight), (x.high, x.high_weight)]
        base = self.image[:, None, None, None, None] * self.size[0]
        return [
            (
                ((base + row[:, :, :, None, None]) * self.size[1] + column[:, None, None]) * group + bins,
                wy[:, :, :, None, None] * wx[:, None, None],
            )
            for row, wy in rows
            for column, wx in columns
        ]

    def values(self, cells: Tensor) -> Tensor:
        """Return the interpolated values [R, P, M, Q, L, C] of the map ``cells``, see `cells_by_row`."""
        cells = cells[:, self.channels]
        parts = [cells[index] * weight[..., None] for index, weight in self.corners()]
        return parts[0] + parts[1] + parts[2] + parts[3]

    def weights(self, winner: Tensor | None) -> Tensor:
        """Return the weight of every point in the output of its bin, [R, P, M, Q, L, C or 1].

        It is the share in the mean, or 1 at the point that ``winner`` [R, C, P, Q] names.
        """
        dtype = self.y.high_weight.dtype
        if winner is not None:
            won = self.of(winner) == self.numbers()[..., None]
            return (won & self.used()[..., None]).to(dtype)
        divisor = (self.y.divisor[:, :, None] * self.x.divisor[:, None]).to(dtype)  # [R, P, Q]
        return (self.used().to(dtype) / divisor[:, :, None, :, None])[..., None]


def pieces(
    boxes: Tensor,
    image: Tensor,
    output: tuple[int, int],
    sizes: list[tuple[int, int]],
    scales: list[float],
    channels: int,
    switches: Switches,
) -> Iterator[Piece]:
    """Split the regions with an image and finite coordinates by level, and into pieces.

    Args:
        boxes: [R, 4] in pixels.
        image: [R] int64, -1 for padding.
        output: (height, width) of the output.
        sizes: (H, W) of every level.
        scales: 1 / stride of every level.
        channels: number of channels of the maps.
        switches: the operator.
    """
    levels = choose_levels(boxes, scales, switches) if len(scales) > 1 else torch.zeros_like(image)
    usable = (image >= 0) & torch.isfinite(boxes).all(dim=1)
    group = switches.input_channels(*output)
    step = 1 if switches.sampling_ratio <= 0 or switches.bin_rounding else 16
    for level, (scale, size) in enumerate(zip(scales, sizes, strict=True)):
        chosen = torch.nonzero(usable & (levels == level)).flatten()
        for begin in range(0, len(chosen), step):
            regions = chosen[begin : begin + step]
            x1, y1, x2, y2 = boxes[regions].unbind(1)
            y = points_of(y1, y2, scale, output[0], size[0], switches)
            x = points_of(x1, x2, scale, output[1], size[1], switches)
            places = len(regions) * output[0] * y.low.shape[2] * output[1] * x.low.shape[2]
            width = max(1, CHUNK_ELEMENTS // max(1, places))
            for first in range(0, channels // group, width):
                some = slice(first, first + width)
                yield Piece(level, size, regions, image[regions], some, group, y, x, switches.bin_rounding)


def cells_by_row(feature: Tensor, dtype: torch.dtype, group: int) -> Tensor:
    """[N, C group, H, W] -> [N H W group, C]."""
    channels = feature.shape[1] // group
    cells = feature.permute(0, 2, 3, 1).reshape(-1, channels, group)
    return cells.transpose(1, 2).reshape(-1, channels).to(dtype)


def maps_of(cells: Tensor, images: int, size: tuple[int, int], group: int) -> Tensor:
    """The inverse of `cells_by_row`."""
    channels = cells.shape[1]
    maps = cells.view(images, *size, group, channels).transpose(3, 4)
    return maps.reshape(images, *size, channels * group).permute(0, 3, 1, 2)
