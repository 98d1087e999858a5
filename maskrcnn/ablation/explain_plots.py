"""Figures of what RoI operators see, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from maskrcnn_ops import AxisReading, Switches, axis_reading
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from maskrcnn.ablation.colours import OPERATOR_COLOURS
from maskrcnn.ablation.explain import Floats, View
from maskrcnn.ablation.statistics import signed
from maskrcnn.data.images import Pixels
from maskrcnn.models.protocols import RoIOp

TRUE, READ = "#1a9850", "#d73027"


def readings(operator: RoIOp, seen: View, output_size: int) -> tuple[AxisReading, AxisReading] | None:
    """How the operator reads the box along x and y; None for one that is not of the family."""
    if not isinstance(operator, Switches):
        return None
    height, width = seen.true.shape
    x1, y1, x2, y2 = seen.box
    return (
        axis_reading(x1, x2, seen.stride, output_size, width, operator),
        axis_reading(y1, y2, seen.stride, output_size, height, operator),
    )


def overview(
    views: Mapping[str, View],
    operators: Mapping[str, RoIOp],
    output_size: int,
    image: Pixels | None,
    path: Path,
) -> None:
    """A column per operator: the box as it is and as it is read; the weight of every cell; what is lost and gained."""
    canvas = Canvas(figsize=(3.6 * len(views), 10.8), layout="constrained")
    parts = ("green: the true box", "red: its bins as they are read", "dots: where they are read")
    canvas.suptitle(("\n" if len(views) == 1 else "; ").join(parts), fontsize=10)
    panels = canvas.subplots(3, len(views), squeeze=False)
    for column, (name, seen) in zip(panels.T, views.items(), strict=True):
        _geometry(column[0], name, seen, readings(operators[name], seen, output_size), image)
        peak = max(v.seen.max() for v in views.values())
        column[1].imshow(seen.seen, cmap="viridis", extent=_extent(seen), vmin=0, vmax=peak)
        column[1].set_title("weight of every cell", fontsize=9)
        difference = seen.seen - seen.true
        limit = max(np.abs(v.seen - v.true).max() for v in views.values()) or 1
        column[2].imshow(difference, cmap="RdBu_r", extent=_extent(seen), vmin=-limit, vmax=limit)
        dx, dy = seen.shift
        column[2].set_title(
            f"lost {100 * seen.lost.sum():.0f} % (blue), gained {100 * seen.gained.sum():.0f} % (red)\n"
            f"shift {signed(dx)}, {signed(dy)} pixels of the image",
            fontsize=9,
        )
        for panel in column:
            _box(panel, seen.box, TRUE)
            _window(panel, seen)
    canvas.savefig(path, dpi=90)


def bins(views: Mapping[str, View], output_size: int, path: Path) -> None:
    """The weights of three bins: the first, the middle one and the last."""
    chosen = [0, output_size // 2, output_size - 1]
    canvas = Canvas(figsize=(3.0 * len(chosen), 3.0 * len(views)), layout="constrained")
    panels = canvas.subplots(len(views), len(chosen), squeeze=False)
    for line, (name, seen) in zip(panels, views.items(), strict=True):
        for panel, place in zip(line, chosen, strict=True):
            panel.imshow(seen.weights[place, place], cmap="viridis", extent=_extent(seen))
            x1, y1, x2, y2 = seen.box
            width, height = (x2 - x1) / output_size, (y2 - y1) / output_size
            exact = (
                x1 + place * width,
                y1 + place * height,
                x1 + (place + 1) * width,
                y1 + (place + 1) * height,
            )
            _box(panel, exact, TRUE)
            panel.set_title(f"{name}: bin ({place}, {place})", fontsize=9)
            _window(panel, seen)
    canvas.savefig(path, dpi=90)


def curves(shifts: Floats, by_name: Mapping[str, Floats], stride: int, ylabel: str, path: Path) -> None:
    """Change against shift, a line per operator; vertical lines stand at whole cells."""
    canvas = Canvas(figsize=(7, 4), layout="constrained")
    panel = canvas.subplots()
    for name, values in by_name.items():
        panel.plot(shifts, values, label=name, color=OPERATOR_COLOURS.get(name))
    for cell in np.arange(0, shifts[-1] + 1, stride):
        panel.axvline(cell, color="#ccc", lw=0.8, zorder=0)
    panel.set(xlabel="image and box moved right, pixels", ylabel=ylabel, ylim=(0, None))
    panel.legend()
    canvas.savefig(path, dpi=90)


def _geometry(
    panel: Any, name: str, seen: View, read: tuple[AxisReading, AxisReading] | None, image: Pixels | None
) -> None:
    height, width = seen.true.shape
    stride = seen.stride
    if image is None:
        panel.imshow(np.full((1, 1, 3), 0.96), extent=_extent(seen))
    else:
        panel.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    for column in range(width + 1):
        panel.axvline(column * stride, color="#888", lw=0.4)
    for row in range(height + 1):
        panel.axhline(row * stride, color="#888", lw=0.4)
    if read is None:
        panel.set_title(f"{name}\nthe true box in green", fontsize=10)
        return
    x, y = read
    for low, high in x.bins:
        for top, bottom in y.bins:
            _box(panel, (low * stride, top * stride, high * stride, bottom * stride), READ, 0.7)
    across, down = ([place * stride for of_bin in axis.points for place in of_bin] for axis in (x, y))
    points = [(px, py) for py in down for px in across]
    if points:
        panel.plot(*np.transpose(points), ".", color="#2b2b2b", ms=2)
    w, h = x.region[1] - x.region[0], y.region[1] - y.region[0]
    true_w, true_h = ((seen.box[2] - seen.box[0]) / stride, (seen.box[3] - seen.box[1]) / stride)
    panel.set_title(f"{name}\nsees {w:.2f} x {h:.2f} cells of {true_w:.2f} x {true_h:.2f}", fontsize=10)


def _extent(seen: View) -> tuple[float, float, float, float]:
    height, width = seen.true.shape
    return 0, width * seen.stride, height * seen.stride, 0


def _box(panel: Any, box: Sequence[float], colour: str, width: float = 1.6) -> None:
    x1, y1, x2, y2 = box
    panel.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=width))


def _window(panel: Any, seen: View) -> None:
    """Show the box and two cells around it."""
    x1, y1, x2, y2 = seen.box
    margin = 2 * seen.stride
    height, width = (n * seen.stride for n in seen.true.shape)
    panel.set_xlim(max(x1 - margin, 0), min(x2 + margin, width))
    panel.set_ylim(min(y2 + margin, height), max(y1 - margin, 0))
    panel.tick_params(labelsize=7)
