"""Plots of how RoI operators read a box, and of the receptive fields of feature cells, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from maskrcnn_ops import AxisReading, Switches, axis_reading
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from maskrcnn.ablation.explain import Floats, View
from maskrcnn.ablation.explain_model import Answer, Explanation
from maskrcnn.ablation.plot import OPERATOR_COLOURS
from maskrcnn.ablation.statistics import signed
from maskrcnn.data.images import Pixels
from maskrcnn.models.protocols import RoIOp
from maskrcnn.models.receptive import ReceptiveField

TRUE, READ = "#1a9850", "#d73027"
_CHANNELS = 16  # maximum number of pooled channels to draw
_REACH = 3  # number of cells to draw on each side of the middle of the block
# The position of a cell that the operators assume, in cells from the upper left corner of the cell's block. For
# operators that round, it is the mean position.
_ASSUMED = {"align": 0.5, "align_legacy, warp, pool": 0.0}


def readings(operator: RoIOp, seen: View, output_size: int) -> tuple[AxisReading, AxisReading] | None:
    """Bins and samples of an operator along x and y.

    Args:
        operator: a RoI operator.
        seen: the box and its map.
        output_size: P, bins per side.

    Returns:
        One reading per axis; None for an operator that is not defined by `Switches`.
    """
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
    """Plot a column per operator: its bins and samples, the weight of every cell, and the area lost and gained.

    Args:
        views: how each operator reads the box.
        operators: the operators, by the names of ``views``.
        output_size: P, bins per side.
        image: RGB ``[H, W, 3]`` uint8 for the background; None leaves it empty.
        path: PNG file to write.
    """
    canvas = Canvas(figsize=(3.6 * len(views), 10.8), layout="constrained")
    parts = ("green: the box", "red: the bins that the operator reads", "dots: its samples")
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
    """Plot the weights of the first, the middle and the last bin on the diagonal, a row per operator.

    Args:
        views: how each operator reads the box.
        output_size: P, bins per side.
        path: PNG file to write.
    """
    chosen = [0, output_size // 2, output_size - 1]
    canvas = Canvas(figsize=(3.0 * len(chosen), 3.0 * len(views)), layout="constrained")
    panels = canvas.subplots(len(views), len(chosen), squeeze=False)
    for line, (name, seen) in zip(panels, views.items(), strict=True):
        for panel, place in zip(line, chosen, strict=True):
            panel.imshow(seen.weights[place, place], cmap="viridis", extent=_extent(seen))
            bin_size = np.subtract(seen.box[2:], seen.box[:2]) / output_size
            corner = seen.box[:2] + place * bin_size
            _box(panel, [*corner, *(corner + bin_size)], TRUE)
            panel.set_title(f"{name}: bin ({place}, {place})", fontsize=9)
            _window(panel, seen)
    canvas.savefig(path, dpi=90)


def curves(shifts: Floats, by_name: Mapping[str, Floats], stride: int, ylabel: str, path: Path) -> None:
    """Plot the change of the features against the shift, a line per operator. Vertical lines mark whole cells.

    Args:
        shifts: ``[S]``, in pixels.
        by_name: ``[S]`` values of each operator or model.
        stride: pixels per cell.
        ylabel: label of the values.
        path: PNG file to write.
    """
    canvas = Canvas(figsize=(7, 4), layout="constrained")
    panel = canvas.subplots()
    for name, values in by_name.items():
        panel.plot(shifts, values, label=name, color=OPERATOR_COLOURS.get(name))
    for cell in np.arange(0, shifts[-1] + 1, stride):
        panel.axvline(cell, color="#ccc", lw=0.8, zorder=0)
    panel.set(xlabel="image and box moved right, pixels", ylabel=ylabel, ylim=(0, None))
    panel.legend()
    canvas.savefig(path, dpi=90)


def detection(found: Explanation, name: str, image: Pixels, path: Path) -> None:
    """Plot a detection as the model finds it, then a row per operator: pooled features, mask, and both outlines.

    Args:
        found: the detection.
        name: name of its class.
        image: RGB ``[H, W, 3]`` uint8.
        path: PNG file to write.
    """
    lines = len(found.by_operator) + 1
    canvas = Canvas(figsize=(11.2, 2.9 * lines), layout="constrained")
    panels = canvas.subplots(lines, 4, squeeze=False)
    channels = found.channels[:_CHANNELS]
    _as_trained(panels[0], found, name, image, channels)
    channel = channels[0]
    pooled = [answer.pooled[channel] for pair in found.by_operator.values() for answer in pair]
    limits = {"vmin": float(min(p.min() for p in pooled)), "vmax": float(max(p.max() for p in pooled))}
    overlaps = found.overlaps()
    for line, (operator, (before, after)) in zip(panels[1:], found.by_operator.items(), strict=True):
        for panel, answer, place in ((line[0], before, "as it is"), (line[1], after, "half a cell right")):
            panel.imshow(answer.pooled[channel], cmap="viridis", **limits)
            panel.set_title(f"{operator}: features, box {place}", fontsize=9)
        _mask(line[2], after, "mask of the moved box")
        panel = line[3]
        _area(panel, before, image, TRUE)
        _outline(panel, after, READ)
        panel.set_title(f"green: as it is, red: moved; IoU {overlaps[operator]:.3f}", fontsize=9)
    for panel in panels[:, :3].flat:
        panel.set(xticks=[], yticks=[])
    canvas.savefig(path, dpi=90)


def _as_trained(
    line: Sequence[Any], found: Explanation, name: str, image: Pixels, channels: list[int]
) -> None:
    line[0].imshow(image)
    _box(line[0], found.trained.box, TRUE)
    line[0].set_title(f"{name} {found.score:.2f}", fontsize=9)
    line[1].imshow(_tiles(found.trained.pooled[channels].numpy()), cmap="viridis")
    shown = f"{len(channels)} channels that vary most" if len(channels) > 1 else f"score map of {name}"
    line[1].set_title(f"pooled features: {shown}", fontsize=9)
    _mask(line[2], found.trained, "mask before pasting")
    _area(line[3], found.trained, image, TRUE)
    line[3].set_title("refined box" if found.trained.mask is None else "mask after pasting", fontsize=9)


def _mask(panel: Any, answer: Answer, title: str) -> None:
    if answer.mask is None:
        panel.axis("off")
        return
    panel.imshow(answer.mask, cmap="gray", vmin=0, vmax=1)
    panel.contour(answer.mask, [0.5], colors=[TRUE], linewidths=1)
    panel.set_title(f"{title}, {answer.mask.shape[0]} x {answer.mask.shape[1]}", fontsize=9)


def _area(panel: Any, answer: Answer, image: Pixels, colour: str) -> None:
    """Show the image around the box, with the outline of the object."""
    panel.imshow(image)
    _outline(panel, answer, colour)
    x1, y1, x2, y2 = answer.box
    margin = 0.25 * max(x2 - x1, y2 - y1)
    panel.set_xlim(max(x1 - margin, 0) - 0.5, min(x2 + margin, image.shape[1]) - 0.5)
    panel.set_ylim(min(y2 + margin, image.shape[0]) - 0.5, max(y1 - margin, 0) - 0.5)
    panel.tick_params(labelsize=7)


def _outline(panel: Any, answer: Answer, colour: str) -> None:
    if answer.area.any() and not answer.area.all():
        panel.contour(answer.area, [0.5], colors=[colour], linewidths=1.4)


def _tiles(channels: Floats) -> Floats:
    """Arrange channels ``[C, P, P]`` in a square of tiles with gaps, each scaled to 0..1."""
    side = math.ceil(math.sqrt(len(channels)))
    low, high = channels.min((1, 2), keepdims=True), channels.max((1, 2), keepdims=True)
    scaled = np.pad(
        (channels - low) / np.maximum(high - low, 1e-12), ((0, 0), (0, 1), (0, 1)), constant_values=np.nan
    )
    blank = np.full((side * side - len(channels), *scaled.shape[1:]), np.nan)
    tiles: Floats = np.concatenate([scaled, blank])
    return np.concatenate([np.concatenate(list(row), 1) for row in np.split(tiles, side)])


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
        panel.set_title(f"{name}\ngreen: the box", fontsize=10)
        return
    x, y = read
    for low, high in x.bins:
        for top, bottom in y.bins:
            _box(panel, (low * stride, top * stride, high * stride, bottom * stride), READ, 0.7)
    across, down = ([place * stride for of_bin in axis.points for place in of_bin] for axis in (x, y))
    if points := [(px, py) for py in down for px in across]:
        panel.plot(*np.transpose(points), ".", color="#2b2b2b", ms=2)
    w, h = np.diff([x.region, y.region])[:, 0]
    true_w, true_h = np.subtract(seen.box[2:], seen.box[:2]) / stride
    panel.set_title(f"{name}\nreads {w:.2f} x {h:.2f} cells, box {true_w:.2f} x {true_h:.2f}", fontsize=10)


def _extent(seen: View) -> tuple[float, float, float, float]:
    height, width = seen.true.shape
    return 0, width * seen.stride, height * seen.stride, 0


def _box(panel: Any, box: Sequence[float], colour: str, width: float = 1.6) -> None:
    x1, y1, x2, y2 = box
    panel.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=width))


def _window(panel: Any, seen: View) -> None:
    """Limit the axes to the box and two cells around it."""
    x1, y1, x2, y2 = seen.box
    margin = 2 * seen.stride
    height, width = (n * seen.stride for n in seen.true.shape)
    panel.set_xlim(max(x1 - margin, 0), min(x2 + margin, width))
    panel.set_ylim(min(y2 + margin, height), max(y1 - margin, 0))
    panel.tick_params(labelsize=7)


def draw_cells(fields: Mapping[int, ReceptiveField], title: str, path: Path) -> None:
    """Draw the receptive field of the middle cell of every map, one panel per map.

    Args:
        fields: the receptive fields by stride.
        title: title of the figure.
        path: PNG file to write.
    """
    figure = Canvas(figsize=(4.2 * len(fields), 4.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(fields), squeeze=False)[0]
    for panel, (stride, field) in zip(panels, fields.items(), strict=True):
        _field(panel, stride, field)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)


def _field(panel: Any, stride: int, field: ReceptiveField) -> None:
    weight = field.weight.numpy()
    half = weight.shape[0] / 2 / stride
    shown = np.maximum(weight / weight.max(), 1e-4)
    # The block of the cell is the unit square [0, 1] x [0, 1].
    panel.imshow(shown, cmap="Greys", norm=LogNorm(1e-4, 1), extent=(-half, half, half, -half))
    panel.add_patch(Rectangle((0, 0), 1, 1, fill=False, ec="#0b5fa5", lw=1.6, label="the cell's block"))
    x, y = (0.5 + shift for shift in field.shift)
    panel.plot(x, y, "+", color=READ, ms=13, mew=2, label="centre of the receptive field")
    for names, place in _ASSUMED.items():
        colour = OPERATOR_COLOURS[names.partition(",")[0]]
        panel.plot(place, place, "o", color=colour, ms=7, label=f"assumed by {names}")
    low, high = 0.5 - _REACH, 0.5 + _REACH
    panel.set(xlim=(low, high), ylim=(high, low), xlabel="cells", ylabel="cells")
    shift = f"shift {field.shift[0]:+.2f}, {field.shift[1]:+.2f} cells"
    panel.set_title(f"stride {stride}: {shift}, spread {field.spread:.1f}", fontsize=10)
