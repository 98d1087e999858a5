"""A plot of a report: its file, its panels, its legend and its colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Constant ids (and no date), so that equal content gives equal files.
matplotlib.rcParams["svg.hashsalt"] = "maskrcnn"
# Text is not converted to outlines. Files are half as large, and the text can be searched and copied.
matplotlib.rcParams["svg.fonttype"] = "none"
# One colour for each RoI operator, in every plot and page of the project. They are distinct for readers with red-green
# colour blindness, and legible on white and on near-black backgrounds.
OPERATOR_COLOURS = {
    "align": "#0f8a5f",
    "align_legacy": "#5fb98f",
    "ps_align": "#0b5fa5",
    "warp": "#e08214",
    "warp_mnc": "#f2b36b",
    "pool": "#c2304a",
    "ps_pool": "#8e44ad",
    "ps_warp": "#8c510a",
}
FEW_LINES = 6  # plots with more lines or bars have another layout
SPARE_COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377"),
    *("#66ccee", "#777777", "#994f00", "#332288"),
)


@dataclass(frozen=True)
class Plot:
    """A plot of a report.

    Args:
        name: name of its file in the folder plots/, without the suffix.
        caption: the text below it.
        content: an SVG element, or the bytes of a WebP file.
    """

    name: str
    caption: str
    content: str | bytes

    @property
    def file(self) -> str:
        return f"{self.name}.{'svg' if isinstance(self.content, str) else 'webp'}"

    @property
    def inline(self) -> str:
        """HTML element that contains the plot itself."""
        if isinstance(self.content, str):
            return self.content
        return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(self.content).decode()}">'

    def write(self, folder: Path) -> None:
        content = self.content if isinstance(self.content, bytes) else self.content.encode()
        (folder / self.file).write_bytes(content)


def colour_of(value: str, values: Sequence[str]) -> str:
    """Colour of a value in all plots of a report.

    Args:
        value: the name of an operator, which has a fixed colour, or another value of an axis.
        values: all values of the axis; the index of another value determines its colour.
    """
    return OPERATOR_COLOURS.get(value) or SPARE_COLOURS[list(values).index(value) % len(SPARE_COLOURS)]


def new_panels(size: tuple[float, float], lines: int = 1, columns: int = 1, **shared: Any) -> Any:
    """Panels (matplotlib axes) of a new figure.

    Args:
        size: (width, height) of the figure in inches.
        lines: number of rows of panels.
        columns: number of columns of panels.
        **shared: further arguments of ``Figure.subplots``.

    Returns:
        An array ``[lines, columns]``.
    """
    return Figure(figsize=size, layout="constrained").subplots(lines, columns, squeeze=False, **shared)


def finished(name: str, caption: str, panel: Any) -> Plot:
    """Add a legend to a figure, outside of all panels, and save the figure.

    Args:
        name: see `Plot`.
        caption: see `Plot`.
        panel: panel of the figure whose labels are the legend.
    """
    figure = panel.figure
    handles, labels = panel.get_legend_handles_labels()
    if len(labels) > FEW_LINES:
        figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    elif any(labels):
        columns = 2 if max(map(len, labels)) > 20 else 4
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Plot(name, caption, text[text.index("<svg") :])


def cells_axis(panel: Any) -> None:
    """Scale the x axis for object sizes in cells, with powers of two as ticks."""
    panel.axhline(0, color="#888", lw=0.8)
    panel.set(xscale="log", xlabel="object size in cells (√area / stride)")
    low, high = panel.get_xlim()
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if low <= t <= high]
    panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
    panel.minorticks_off()
