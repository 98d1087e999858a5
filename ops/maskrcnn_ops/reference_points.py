"""What every operator of the PyTorch reference starts from: the points of its regions, and the cells that they read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .geometry import Points, choose_levels, points_of
from .switches import Switches

CHUNK_ELEMENTS = 1 << 23  # bound on the values gathered at once


def usable_regions(boxes: Tensor, image: Tensor) -> Tensor:
    """Return whether a region [R] has an image and finite coordinates."""
    return (image >= 0) & torch.isfinite(boxes).all(dim=1)


def regions_by_level(
    boxes: Tensor, image: Tensor, sizes: list[tuple[int, int]], scales: list[float], switches: Switches
) -> Iterator[tuple[int, Tensor]]:
    """Yield each level index and the regions that pool from it."""
    levels = choose_levels(boxes, scales, switches) if len(scales) > 1 else torch.zeros_like(image)
    usable = usable_regions(boxes, image)
    for level in range(len(sizes)):
        yield level, torch.nonzero(usable & (levels == level)).flatten()


def in_chunks(
    boxes: Tensor,
    scale: float,
    output: tuple[int, int],
    size: tuple[int, int],
    channels: int,
    switches: Switches,
) -> Iterator[tuple[slice, slice, Points, Points]]:
    """Yield slices of regions and channels that are small enough to gather at once, and the points of the regions."""
    step = 1 if switches.sampling_ratio <= 0 or switches.bin_rounding else 16
    for begin in range(0, len(boxes), step):
        part = boxes[begin : begin + step]
        y = points_of(part[:, 1], part[:, 3], scale, output[0], size[0], switches)
        x = points_of(part[:, 0], part[:, 2], scale, output[1], size[1], switches)
        places = max(1, len(part) * output[0] * y.low.shape[2] * output[1] * x.low.shape[2])
        width = max(1, CHUNK_ELEMENTS // places)
        for first in range(0, channels, width):
            yield slice(begin, begin + step), slice(first, min(first + width, channels)), y, x


def corner_cells(
    y: Points, x: Points, image: Tensor, size: tuple[int, int], group: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the four rows of the flattened map that every point reads, and their weights: [R, P, M, Q, L].

    ``group`` is P * Q for a position-sensitive map, which has a row for each cell and bin, and 1 otherwise.
    """
    bins = torch.arange(group, device=image.device)
    bins = bins.view(y.low.shape[1], 1, -1, 1) if group > 1 else bins
    rows = [(y.low, 1 - y.high_weight), (y.high, y.high_weight)]
    columns = [(x.low, 1 - x.high_weight), (x.high, x.high_weight)]
    base = image[:, None, None, None, None] * size[0]
    return [
        (
            ((base + row[:, :, :, None, None]) * size[1] + column[:, None, None]) * group + bins,
            wy[:, :, :, None, None] * wx[:, None, None],
        )
        for row, wy in rows
        for column, wx in columns
    ]


def used_points(y: Points, x: Points) -> Tensor:
    return y.used[:, :, :, None, None] & x.used[:, None, None]


def point_values(
    cells: Tensor, y: Points, x: Points, image: Tensor, size: tuple[int, int], group: int
) -> Tensor:
    """Return the interpolated values [R, P, M, Q, L, C] of the map ``cells`` [N H W group, C]."""
    parts = [cells[index] * weight[..., None] for index, weight in corner_cells(y, x, image, size, group)]
    return parts[0] + parts[1] + parts[2] + parts[3]


def cells_by_row(feature: Tensor, dtype: torch.dtype, group: int) -> Tensor:
    """[N, C group, H, W] -> [N H W group, C]."""
    channels = feature.shape[1] // group
    cells = feature.permute(0, 2, 3, 1).reshape(-1, channels, group)
    return cells.transpose(1, 2).reshape(-1, channels).to(dtype)


def maps_of(cells: Tensor, images: int, size: tuple[int, int], group: int) -> Tensor:
    """The inverse of :func:`cells_by_row`."""
    channels = cells.shape[1]
    maps = cells.view(images, *size, group, channels).transpose(3, 4)
    return maps.reshape(images, *size, channels * group).permute(0, 3, 1, 2)


def _frozen(y: Points, x: Points, winner: Tensor, size: tuple[int, int], switches: Switches) -> Tensor:
    """Return [R, P, M, Q, L, C], True at the point of each bin that ``winner`` [R, C, P, Q] names."""
    chosen = winner.permute(0, 2, 3, 1)[:, :, None, :, None]  # [R, P, 1, Q, 1, C]
    m = torch.arange(y.low.shape[2], device=winner.device)[:, None]
    n = torch.arange(x.low.shape[2], device=winner.device)
    if switches.bin_rounding:
        place = (y.first[:, :, None, None, None] + m[:, None]) * size[1] + x.first[:, None, None, :, None] + n
    else:
        place = m[:, None] * x.count[:, None, None, :, None] + n
        place = place.expand(len(winner), y.low.shape[1], -1, -1, -1)
    return (chosen == place[..., None]) & used_points(y, x)[..., None]


def _share(y: Points, x: Points) -> Tensor:
    """Return the weight of every point in the mean of its bin, [R, P, M, Q, L]."""
    divisor = (y.divisor[:, :, None] * x.divisor[:, None]).to(y.high_weight.dtype)  # [R, P, Q]
    return used_points(y, x).to(divisor.dtype) / divisor[:, :, None, :, None]


def point_weights(
    y: Points, x: Points, winner: Tensor | None, size: tuple[int, int], switches: Switches
) -> Tensor:
    """Return the weight of every point in the output of its bin, [R, P, M, Q, L, C or 1]."""
    if winner is None:
        return _share(y, x)[..., None]
    return _frozen(y, x, winner, size, switches).to(y.high_weight.dtype)
