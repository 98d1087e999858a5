"""Positions of a region's points, for the PyTorch reference and for plots.

The arithmetic follows ``csrc/geometry.h`` operation by operation, so that float32 coordinates have the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .switches import Switches

MAX_SAMPLES = 1 << 20  # per bin and axis, if adaptive; float32 can still separate so many


@dataclass
class Points:
    """The points of R regions along one axis: up to M points for each of P bins. Unused entries are padding.

    Attributes:
        low, high: [R, P, M] the two cells that a point reads.
        high_weight: [R, P, M] weight of ``high``; that of ``low`` is 1 minus it.
        slope: [R, P, M] derivative of the clamped coordinate: 0 if the coordinate is clamped, else 1.
        along: [R, P, M] position within the region, 0 to 1.
        first: [R, P] index of the first point inside the map.
        count: [R, P] number of points inside the map.
        divisor: [R, P] divisor of the mean.
        outside: [R, P] whether the bin has samples outside the map.
        free: [R] whether the width follows the box, that is, exceeds the minimum.
    """

    low: Tensor
    high: Tensor
    high_weight: Tensor
    slope: Tensor
    along: Tensor
    first: Tensor
    count: Tensor
    divisor: Tensor
    outside: Tensor
    free: Tensor

    @property
    def used(self) -> Tensor:
        places = torch.arange(self.low.shape[2], device=self.low.device)
        return places < self.count[..., None]


def round_half_away(x: Tensor) -> Tensor:
    """Round half away from zero like C's ``round``; torch.round rounds half to even."""
    whole = x.trunc()
    return torch.where((x - whole).abs() >= 0.5, whole + x.sign(), whole)


def choose_levels(boxes: Tensor, scales: list[float], switches: Switches) -> Tensor:
    """Return the level index [R] of boxes [R, 4].

    It is the coarsest level whose log2(stride) is at most
    ``floor(canonical_level + log2(sqrt(area) / canonical_size) + 1e-6)``, or the finest if there is none.

    Args:
        boxes: [R, 4] x1, y1, x2, y2 in pixels.
        scales: 1 / stride of every level.
        switches: has canonical_size and canonical_level.
    """
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).double()
    level = torch.floor(switches.canonical_level + torch.log2(area.sqrt() / switches.canonical_size) + 1e-6)
    chosen = torch.zeros_like(level, dtype=torch.int64)
    for index, scale in enumerate(scales[1:], start=1):
        chosen = torch.where(-math.log2(scale) <= level, index, chosen)
    return chosen


def _clip_to_map(x: Tensor, size: int) -> Tensor:
    """Truncate x and clamp it to 0..size. NaN becomes 0."""
    return torch.nan_to_num(x, nan=0.0).clamp(0, size).to(torch.int64)


def _offset_and_divisor(samples: Tensor, switches: Switches) -> tuple[float, Tensor]:
    if switches.sample_position == "thirds":
        return 1.0, samples + 1
    return (0.5 if switches.sample_position == "centre" else 0.0), samples


def edges_of(
    low: Tensor, high: Tensor, scale: float, bins: int, switches: Switches
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the edges of regions along one axis.

    Args:
        low: [R] first edges of the boxes in pixels.
        high: [R] second edges of the boxes in pixels.
        scale: 1 / stride.
        bins: P.
        switches: the operator.

    Returns:
        Start [R] and bin size [R] in cells, and whether the width exceeds its minimum [R].
    """
    one = 1 if switches.plus_one else 0
    if switches.box_rounding == "pixel":
        low, high, one = round_half_away(low), round_half_away(high) + one, 0
    start, end = low * scale, high * scale
    if switches.box_rounding == "round":
        start, end = round_half_away(start), round_half_away(end)
    start, end = start - switches.offset, end - switches.offset
    width = end - start + one
    free = torch.ones_like(width, dtype=torch.bool)
    if switches.min_width is not None:
        free = width > switches.min_width
        width = torch.where(width >= switches.min_width, width, switches.min_width)
    return start, width / bins, free


def cells_of(
    start: Tensor, bin_size: Tensor, bins: int, size: int, switches: Switches
) -> tuple[Tensor, Tensor]:
    """Compute the cells of bins along one axis, for bins of whole cells.

    Args:
        start: [R] in cells.
        bin_size: [R] in cells.
        bins: P.
        size: number of cells of the map.
        switches: the operator.

    Returns:
        The first cell and the number of cells of every bin, both [R, P].
    """
    p = torch.arange(bins, device=start.device, dtype=start.dtype)
    low, high = p * bin_size[:, None], (p + 1) * bin_size[:, None]
    if switches.box_rounding == "round" and switches.offset == 0:
        low, high = low.floor() + start[:, None], high.ceil() + start[:, None]
    else:
        low, high = (start[:, None] + low).floor(), (start[:, None] + high).ceil()
    size = max(size - 1, 0) if switches.border == "inner" else size
    first = _clip_to_map(low, size)
    return first, (_clip_to_map(high, size) - first).clamp(min=0)


def _sample_at(start: Tensor, bin_size: Tensor, samples: Tensor, index: Tensor, switches: Switches) -> Tensor:
    """Return the coordinates of samples ``index`` [R, P, M]; the other arguments are [R]."""
    offset, divisor = _offset_and_divisor(samples, switches)
    p = torch.arange(index.shape[1], device=start.device, dtype=start.dtype)
    bin_start = start[:, None] + p * bin_size[:, None]  # [R, P]
    within = (
        (index.to(start.dtype) + offset) * bin_size[:, None, None] / divisor.to(start.dtype)[:, None, None]
    )
    return bin_start[..., None] + within


def _inside(x: Tensor, size: int, switches: Switches) -> Tensor:
    margin = {"align": 1.0, "mnc": 0.5, "inner": 0.0}[switches.border]
    return (x >= -margin) & (x <= size - 1 + margin) if size > 0 else torch.zeros_like(x, dtype=torch.bool)


def _search(
    start: Tensor, bin_size: Tensor, samples: Tensor, bins: int, size: int, switches: Switches
) -> tuple[Tensor, Tensor]:
    """Return a range of samples that holds all samples inside the map: first index and length, both [R, P]."""
    if switches.sampling_ratio > 0:
        first = torch.zeros(len(start), bins, dtype=torch.int64, device=start.device)
        return first, torch.full_like(first, switches.sampling_ratio)
    zero = torch.zeros(len(start), bins, 1, dtype=torch.int64, device=start.device)
    origin = _sample_at(start, bin_size, samples, zero, switches)[..., 0]
    step = (bin_size / samples.to(start.dtype))[:, None]
    begin = torch.minimum(_clip_to_map((-1 - origin) / step - 2, MAX_SAMPLES), samples[:, None])
    end = torch.minimum(_clip_to_map((size - origin) / step + 4, MAX_SAMPLES), samples[:, None])
    return begin, (end - begin).clamp(min=0)


def _samples_per_bin(bin_size: Tensor, switches: Switches) -> Tensor:
    if switches.sampling_ratio > 0:
        return torch.full_like(bin_size, switches.sampling_ratio, dtype=torch.int64)
    return _clip_to_map(bin_size.ceil(), MAX_SAMPLES)


def points_of(low: Tensor, high: Tensor, scale: float, bins: int, size: int, switches: Switches) -> Points:
    """Return the points of regions along one axis.

    Args:
        low, high: [R] edges of the boxes in pixels.
        scale: 1 / stride.
        bins: P.
        size: number of cells of the map.
        switches: the operator.
    """
    start, bin_size, free = edges_of(low, high, scale, bins, switches)
    samples = _samples_per_bin(bin_size, switches)
    if switches.bin_rounding:
        first, count = cells_of(start, bin_size, bins, size, switches)
        x = (first[..., None] + torch.arange(_most(count), device=low.device)).to(start.dtype)
        outside, divisor = torch.zeros_like(first, dtype=torch.bool), count
        along = torch.zeros_like(x)
    else:
        first, width = _search(start, bin_size, samples, bins, size, switches)
        index = first[..., None] + torch.arange(_most(width), device=low.device)
        inside = _inside(_sample_at(start, bin_size, samples, index, switches), size, switches)
        inside &= index < (first + width)[..., None]
        count = inside.sum(2)
        lead = inside.to(torch.int8).argmax(2) if inside.shape[2] else torch.zeros_like(count)
        first = first + torch.where(count > 0, lead, 0)
        index = first[..., None] + torch.arange(_most(count), device=low.device)
        x = _sample_at(start, bin_size, samples, index, switches)
        outside, divisor = count < samples[:, None], samples[:, None].expand_as(count)
        offset, steps = _offset_and_divisor(samples, switches)
        p = torch.arange(bins, device=low.device, dtype=start.dtype)[:, None]
        along = (p + (index.to(start.dtype) + offset) / steps.to(start.dtype)[:, None, None]) / bins
    x = torch.nan_to_num(x, nan=0.0).clamp(0, max(size - 1, 0))
    low_cell = x.to(torch.int64)
    weight = x - low_cell.to(x.dtype)
    slope = ((x > 0) & (low_cell < size - 1)).to(x.dtype)
    high_cell = (low_cell + 1).clamp(max=max(size - 1, 0))
    return Points(
        low_cell, high_cell, weight, slope, along, first, count, divisor.clamp(min=1), outside, free
    )


def _most(count: Tensor) -> int:
    return int(count.max()) if count.numel() else 0


@dataclass(frozen=True)
class AxisReading:
    """One axis of one box, in cells of the map: cell c covers [c, c + 1) and is centred at c + 0.5.

    Attributes:
        region: start and end of the region after rounding and shifting.
        bins: start and end of each bin. With bin_rounding they are whole cells, clipped to the map.
        points: positions that each bin reads: samples, or centres of cells. They are clamped to the map.
    """

    region: tuple[float, float]
    bins: list[tuple[float, float]]
    points: list[list[float]]


def axis_reading(
    low: float, high: float, stride: float, bins: int, size: int, switches: Switches
) -> AxisReading:
    """Return how an operator reads a box along one axis.

    Args:
        low: first edge of the box in pixels.
        high: second edge of the box in pixels.
        stride: pixels per cell.
        bins: number of bins.
        size: number of cells of the map along the axis.
        switches: the operator.
    """
    ends = torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64)
    start, bin_size, _ = edges_of(*ends, 1.0 / stride, bins, switches)
    points = points_of(*ends, 1.0 / stride, bins, size, switches)
    places = points.low + points.high_weight * (points.high - points.low)
    read = [
        [float(x) + 0.5 for x, used in zip(row, use, strict=True) if used]
        for row, use in zip(places[0], points.used[0], strict=True)
    ]
    # A sample at x reads the cell that is centred at x. Ranges of whole cells begin at the edge of their first cell.
    shift = 0.0 if switches.bin_rounding else 0.5
    begin, step = float(start) + shift, float(bin_size)
    if switches.bin_rounding:
        first, count = (numbers[0].tolist() for numbers in cells_of(start, bin_size, bins, size, switches))
        ranges = [(float(f), float(f + n)) for f, n in zip(first, count, strict=True)]
    else:
        ranges = [(begin + p * step, begin + (p + 1) * step) for p in range(bins)]
    return AxisReading((begin, begin + bins * step), ranges, read)
