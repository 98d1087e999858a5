"""The plots of a table's report."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.plot import (
    FEW_LINES,
    OPERATOR_COLOURS,
    SPARE_COLOURS,
    Plot,
    cells_axis,
    colour_of,
    finished,
    new_panels,
)
from maskrcnn.ablation.statistics import Estimate
from maskrcnn.ablation.summary import (
    KINDS,
    Difference,
    Row,
    bin_centres,
    differences,
    grouped,
    name_of,
    place_name,
)

_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_LABEL = 12  # maximum number of letters in a line of a bar group's label
_STYLES = ("-", "--", ":", "-.")


def overview(table: Table, rows: Sequence[Row], kind: str) -> Plot:
    """Plot AP of every row with its interval, next to the paper's AP.

    Args:
        table: the table.
        rows: its rows.
        kind: ``segm``, ``bbox`` or ``keypoints``.
    """
    metric, groups = f"{kind}_AP", _groups(table, rows)
    placed = {(name, value): row for name, members in groups.items() for value, row in members.items()}
    values = _values(groups)
    here = {key: estimate for key, row in placed.items() if (estimate := row.estimate(metric))}
    seeds = max(len(row.records) for row in rows)
    over = f"bars: mean of {seeds} seeds; lines: 95 % interval" if seeds > 1 else "one run each"
    caption = f"{KINDS[kind].capitalize()} AP on {table.data} ({over})"
    if len(values) > FEW_LINES:
        names = [", ".join(text for text in (value, name) if text) for name, value in here]
        panel = _long_bars(names, list(here.values()), [value for _, value in here], name_of(metric))
        return finished("overview", f"{caption}.", panel)
    published = {key: table.published(row.axes).get(metric) for key, row in placed.items()}
    paper = {key: Estimate(v, None, None, 1) for key, v in published.items() if v is not None}
    sides = {f"here: {table.data}": here, **({"paper: COCO": paper} if paper else {})}
    width = max(3.1, 1.25 * len(groups)) * len(sides) + 0.4
    panels = new_panels((width, 3.6), 1, len(sides), sharey=True)[0]
    for panel, (title, estimates) in zip(panels, sides.items(), strict=True):
        _bars(panel, list(groups), values, estimates)
        panel.set(title=title)
    panels[0].set(ylabel=f"{KINDS[kind]} AP")
    panels[0].margins(y=0.08)
    # This ends the automatic limits of all panels that share the axis, so it comes after they are drawn.
    panels[0].set_ylim(0, None)
    missing = ", ".join(f"{v} at {n}" for n, v in placed if paper and (n, v) not in paper)
    caption += " next to the paper's on COCO." if paper else "."
    return finished("overview", caption + (f" Not in the paper: {missing}." if missing else ""), panels[0])


def _bars(
    panel: Any, names: Sequence[str], values: Sequence[str], of: Mapping[tuple[str, str], Estimate]
) -> None:
    width = 0.8 / len(values)
    for place, value in enumerate(values):
        shift = (place - (len(values) - 1) / 2) * width
        known = {i + shift: of[name, value] for i, name in enumerate(names) if (name, value) in of}
        heights = [estimate.mean for estimate in known.values()]
        style = {"color": colour_of(value, values), "label": value, "capsize": 3}
        drawn = panel.bar(list(known), heights, 0.92 * width, yerr=_halves(known.values()), **style)
        panel.bar_label(drawn, fmt="%.1f", padding=2)
    labels = [textwrap.fill(name, _LABEL) for name in names] if any(names) else []
    panel.set_xticks(range(len(labels)), labels, fontsize=11)
    panel.set_xlim(-0.55, len(names) - 0.45)
    panel.spines[["top", "right"]].set_visible(False)


def _long_bars(
    names: Sequence[str], estimates: Sequence[Estimate], operators: Sequence[str], xlabel: str
) -> Any:
    """A panel with a horizontal bar per row, for many rows. Bars of an operator's variants are paler."""
    panel = new_panels((7, 0.8 + 0.27 * len(names)))[0, 0]
    colours = [
        (OPERATOR_COLOURS.get(text.split(",")[0], SPARE_COLOURS[0]), 1 if text in OPERATOR_COLOURS else 0.55)
        for text in operators
    ]
    means = [estimate.mean for estimate in estimates]
    drawn = panel.barh(names, means, xerr=_halves(estimates), color=colours, ecolor="#222", capsize=2)
    panel.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    panel.axvline(0, color="#444", lw=0.8)
    panel.invert_yaxis()
    panel.set(xlabel=xlabel)
    panel.spines[["top", "right"]].set_visible(False)
    return panel


def _halves(estimates: Iterable[Estimate]) -> list[float] | None:
    """Half the width of each interval; None if there are no intervals."""
    halves = [estimate.half or 0.0 for estimate in estimates]
    return halves if any(halves) else None


def gains(table: Table, rows: Sequence[Row], kind: str) -> Plot | None:
    """Plot every difference of the table as a bar with its 95 % interval over seeds.

    If every row is a single run, the bars are differences of AP within images, with intervals over images.

    Args:
        table: the table.
        rows: its rows.
        kind: ``segm``, ``bbox`` or ``keypoints``.

    Returns:
        The plot; None if there are at most `FEW_LINES` differences.
    """
    found = differences(table, rows, [f"{kind}_AP"])
    if len(found) <= FEW_LINES:
        return None
    names = [", ".join([f"{d.first} − {d.second}", *d.axes.values()]) for d in found]
    several = any(d.by_seed.low is not None for d in found)
    shown = [d.by_seed if several or d.by_image is None else d.by_image for d in found]
    what = f"{KINDS[kind]} AP{'' if several else ' within images'}"
    panel = _long_bars(names, shown, [d.second for d in found], f"difference in {what}")
    over = "seeds" if several else "images, which do not cover the variation between seeds"
    return finished("gains", f"Differences in {what} with 95 % intervals over the {over}.", panel)


def iou_curves(table: Table, rows: Sequence[Row], kind: str) -> Plot | None:
    """Plot AP at each IoU threshold, and below it the gain of ``table.compare.of`` over the other values.

    Args:
        table: the table.
        rows: its rows.
        kind: ``segm``, ``bbox`` or ``keypoints``.

    Returns:
        The plot; None if no row has such an AP.
    """
    groups = _groups(table, [row for row in rows if kind in row.records[0]["by_iou"]])
    if not groups:
        return None
    values = _values(groups)
    of = table.compare.of if table.compare and len(values) <= FEW_LINES else None
    lines = 1 + any(of in members and len(members) > 1 for members in groups.values())
    size = max(3.5 * len(groups), 6.5) + 0.5, 2.8 * lines + 0.5
    panels = new_panels(size, lines, len(groups), sharex=True, sharey="row")
    for column, (name, members) in zip(panels.T, groups.items(), strict=True):
        curves = {value: row.mean_of("by_iou", kind, "all") for value, row in members.items()}
        for value, curve in curves.items():
            style = {"color": colour_of(value, values), "marker": "."}
            column[0].plot(_THRESHOLDS, curve, label=value, **style)
            if lines > 1 and of in curves and value != of:
                column[1].plot(_THRESHOLDS, curves[of] - curve, **style)
        column[0].set(title=name)
        column[-1].set(xlabel="IoU threshold")
        if lines > 1:
            column[1].axhline(0, color="#888", lw=0.8)
    panels[0][0].set(ylabel=f"{KINDS[kind]} AP", ylim=(0, None))
    if lines > 1:
        panels[1][0].set(ylabel=f"gain of {of} over the others")
    caption = f"{KINDS[kind].capitalize()} AP at each IoU threshold, mean of the seeds"
    below = f"; below: the gain of {of}" if lines > 1 else ""
    return finished(f"iou_{kind}", f"{caption}{below}.", panels[0][0])


def size_gain(table: Table, rows: Sequence[Row], kind: str) -> Plot | None:
    """Plot the gain of ``table.compare.of`` over the other values by object size in cells.

    Args:
        table: the table.
        rows: its rows.
        kind: ``segm``, ``bbox`` or ``keypoints``.

    Returns:
        The plot; None if the table has no comparison by size in cells.
    """
    if table.compare is None or any(kind not in row.records[0]["by_size"] for row in rows):
        return None
    panel = new_panels((7.2, 4.4))[0, 0]
    found = _against_of(table, rows, f"{kind}_AP")
    places = list(dict.fromkeys(place_name(d.axes) for d, _ in found))
    for d, cell in found:
        place = place_name(d.axes)
        centres = bin_centres(d.row.records[0]["by_size"]["edges"]) / cell
        known = [(x, g.mean, g.half or 0) for x, g in zip(centres, d.by_size, strict=True) if g is not None]
        style = {
            "color": colour_of(d.second, list(table.axes[d.axis])),
            "linestyle": _STYLES[places.index(place) % len(_STYLES)],
            "label": ", ".join(text for text in (f"{d.first} − {d.second}", place) if text),
        }
        panel.errorbar(*np.reshape(known, (-1, 3)).T, **style, marker="o", ms=4, capsize=2)
    if not any(np.size(line.get_xdata()) for line in panel.lines):
        return None
    cells_axis(panel)
    panel.set(ylabel=f"gain in {KINDS[kind]} AP")
    caption = (
        f"Gain of {table.compare.of} in {KINDS[kind]} AP by object size, in cells of the pooled feature map; bars are "
        "95 % intervals over the seeds."
    )
    return finished(f"size_{kind}", caption, panel)


def stride_gain(table: Table, rows: Sequence[Row], kind: str) -> Plot | None:
    """Plot the gain of ``table.compare.of`` by stride: a dot per seed, their mean, and the paper's gain.

    Args:
        table: the table.
        rows: its rows.
        kind: ``segm``, ``bbox`` or ``keypoints``.

    Returns:
        The plot; None if the table compares nothing or has a single stride.
    """
    found = _against_of(table, rows, f"{kind}_AP")
    cells = sorted({cell for _, cell in found})
    # Cells of one stride can differ a little in pixels of the original image, because image sizes differ.
    if table.compare is None or not cells or cells[-1] < 1.2 * cells[0]:
        return None
    values, of = list(table.axes[table.compare.axis]), table.compare.of
    panel = new_panels((6.4, 4))[0, 0]
    for place, value in enumerate(v for v in values if v != of):
        own = [(np.log2(cell) + 0.05 * place, d) for d, cell in found if d.second == value]
        colour = colour_of(value, values)
        for x, d in own:
            panel.plot([x] * len(d.gains), d.gains, ".", color=colour, alpha=0.5)
        means = [d.by_seed.mean for _, d in own]
        panel.plot([x for x, _ in own], means, "-o", color=colour, label=f"{of} − {value}")
        if known := [(x, d.paper) for x, d in own if d.paper is not None]:
            label = f"{of} − {value}, paper on COCO"
            panel.plot(*np.transpose(known), "--s", color=colour, mfc="white", label=label)
    panel.set_xticks(np.log2(cells), [f"{cell:g}" for cell in cells])
    panel.set(xlabel="side of a cell in pixels of the original image", ylabel=f"gain in {KINDS[kind]} AP")
    panel.set(ylim=(min(0, panel.get_ylim()[0]), None))
    panel.axhline(0, color="#888", lw=0.8)
    return finished("stride_gain", f"Gain of {of} by stride: each seed (dots) and the mean.", panel)


def learning_curves(table: Table, rows: Sequence[Row]) -> Plot:
    """Plot the training loss of the first seed, one panel per combination of the axes that are not compared.

    Args:
        table: the table.
        rows: its rows.
    """
    groups = _groups(table, rows)
    values = _values(groups)
    columns = min(len(groups), 3)
    lines = -(-len(groups) // columns)
    size = max(3.5 * columns, 6.5) + 0.5, 2.8 * lines + 0.6
    panels = new_panels(size, lines, columns, sharey=True).ravel()
    for unused in panels[len(groups) :]:
        unused.set_axis_off()
    for panel, (name, members) in zip(panels, groups.items(), strict=False):
        for value, row in members.items():
            if curve := row.records[0]["curve"]:
                panel.plot(*np.transpose(curve), label=value, color=colour_of(value, values), lw=1)
        panel.set(title=name, xlabel="step", xlim=(0, None))
    panels[0].set(ylabel="training loss", ylim=(0, None))
    return finished("learning_curves", "Training loss of the first seed.", panels[0])


def _groups(table: Table, rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Rows grouped as in `grouped`, by the compared axis. Without a comparison, by the first axis."""
    return grouped(rows, table.compare.axis if table.compare else next(iter(table.axes)))


def _values(groups: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """Values of the compared axis that have runs."""
    return list(dict.fromkeys(value for members in groups.values() for value in members))


def _against_of(table: Table, rows: Sequence[Row], metric: str) -> list[tuple[Difference, float]]:
    """Differences of ``table.compare.of`` to the other values, each with the side of a cell in pixels.

    Rows of a pyramid are left out, because they have no single stride.
    """
    return [
        (d, d.row.cell)
        for d in differences(table, rows, [metric])
        if table.compare and d.first == table.compare.of and d.row.cell is not None
    ]
