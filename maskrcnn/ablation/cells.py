"""Draws the receptive fields of feature cells, and the positions that the RoI operators assume for the cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from maskrcnn.ablation.colours import OPERATOR_COLOURS
from maskrcnn.models.receptive import ReceptiveField

_REACH = 3  # number of cells to draw on each side of the middle of the block
# The position of a cell that the operators assume, in cells from the upper left corner of the cell's block. For
# operators that round, it is the mean position.
_ASSUMED = {"align": 0.5, "align_legacy, warp, pool": 0.0}


def draw_cells(fields: Mapping[int, ReceptiveField], title: str, path: Path) -> None:
    """Draw the receptive field of the middle cell of every map, one panel per map.

    Args:
        fields: the receptive fields by stride.
        title: title of the figure.
        path: PNG file to write.
    """
    figure = Figure(figsize=(4.2 * len(fields), 4.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(fields), squeeze=False)[0]
    for panel, (stride, field) in zip(panels, fields.items(), strict=True):
        _draw(panel, stride, field)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)


def _draw(panel: Any, stride: int, field: ReceptiveField) -> None:
    weight = field.weight.numpy()
    half = weight.shape[0] / 2 / stride
    shown = np.maximum(weight / weight.max(), 1e-4)
    # The block of the cell is the unit square [0, 1] x [0, 1].
    panel.imshow(shown, cmap="Greys", norm=LogNorm(1e-4, 1), extent=(-half, half, half, -half))
    panel.add_patch(
        Rectangle((0, 0), 1, 1, fill=False, edgecolor="#0b5fa5", linewidth=1.6, label="the cell's block")
    )
    x, y = (0.5 + shift for shift in field.shift)
    panel.plot(
        x, y, "+", color="#d73027", markersize=13, markeredgewidth=2, label="centre of the receptive field"
    )
    for names, place in _ASSUMED.items():
        colour = OPERATOR_COLOURS[names.partition(",")[0]]
        panel.plot(place, place, "o", color=colour, markersize=7, label=f"assumed by {names}")
    panel.set(
        xlim=(0.5 - _REACH, 0.5 + _REACH), ylim=(0.5 + _REACH, 0.5 - _REACH), xlabel="cells", ylabel="cells"
    )
    panel.set_title(
        f"stride {stride}: shift {field.shift[0]:+.2f}, {field.shift[1]:+.2f} cells, spread {field.spread:.1f}",
        fontsize=10,
    )
