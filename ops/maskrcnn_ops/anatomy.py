"""How an operator reads a box along one axis. It is for plots, not for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .geometry import cells_of, edges_of, points_of
from .switches import Switches


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
