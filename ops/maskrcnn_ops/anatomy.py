"""How an operator of the family reads a box along one axis: for figures and for people, not for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .geometry import cells_of, edges_of, points_of
from .switches import Switches


@dataclass(frozen=True)
class AxisReading:
    """One axis of one box, in cells of the map: cell c covers [c, c + 1) and is centred at c + 0.5.

    region: its two ends as the operator sees them. bins: the two ends of each; of whole cells with bin_rounding,
    clipped to the map. points: of each bin, where it reads, samples or centres of cells, clamped to the map as the
    operator does.
    """

    region: tuple[float, float]
    bins: list[tuple[float, float]]
    points: list[list[float]]


def axis_reading(
    low: float, high: float, stride: float, bins: int, size: int, switches: Switches
) -> AxisReading:
    """How ``switches`` read a box from ``low`` to ``high`` (pixels) in ``bins`` bins on a map of ``size`` cells."""
    ends = torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64)
    start, bin_size, _ = edges_of(*ends, 1.0 / stride, bins, switches)
    points = points_of(*ends, 1.0 / stride, bins, size, switches)
    places = points.low + points.high_weight * (points.high - points.low)
    read = [
        [float(x) + 0.5 for x, used in zip(row, use, strict=True) if used]
        for row, use in zip(places[0], points.used[0], strict=True)
    ]
    # A sample at x reads the cell centred at x; a range of whole cells begins where its first cell does.
    shift = 0.0 if switches.bin_rounding else 0.5
    begin, step = float(start) + shift, float(bin_size)
    if switches.bin_rounding:
        first, count = (numbers[0].tolist() for numbers in cells_of(start, bin_size, bins, size, switches))
        ranges = [(float(f), float(f + n)) for f, n in zip(first, count, strict=True)]
    else:
        ranges = [(begin + p * step, begin + (p + 1) * step) for p in range(bins)]
    return AxisReading((begin, begin + bins * step), ranges, read)
