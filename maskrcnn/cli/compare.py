"""Compare two or more runs: their metrics, and the keys in which their configs differ.

Usage: maskrcnn compare RUN_DIR RUN_DIR [RUN_DIR ...] [plot=compare.png]

Prints a table of the runs' metrics with their differences from the first run, and a table of the keys that differ.
Draws the metrics and the training losses into plot=FILE (a .png or .svg file); plot=null draws nothing.

Examples:
  maskrcnn compare runs/align runs/pool
  maskrcnn compare runs/a runs/b runs/c plot=abc.svg
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from maskrcnn.console import console
from maskrcnn.errors import UserError
from maskrcnn.training.recipe import flat

# Keys that only depend on the machine and its folders.
_OF_THE_PLACE = ("run_dir", "device", "threads", "debug", "data.num_workers", "categories")
Metrics = dict[str, float | None]


def main(arguments: Sequence[str]) -> None:
    """Print and draw the comparison. This command does not import torch."""
    folders = [Path(a) for a in arguments if "=" not in a or Path(a).is_dir()]
    given = [a for a in arguments if Path(a) not in folders]
    plot = _plot(given)
    if len(folders) < 2:
        raise UserError(
            f"found {len(folders)} run directories; give two or more: maskrcnn compare runs/a runs/b"
        )
    names = _names(folders)
    metrics = [_metrics(folder) for folder in folders]
    console.print(_metric_table(names, metrics))
    console.print(_config_table(names, [_config(folder) for folder in folders]))
    if plot is not None:
        draw(names, metrics, [_losses(folder) for folder in folders], plot)
        console.print(f"written: {plot}")


def _plot(given: Sequence[str]) -> Path | None:
    found = "compare.png"
    for argument in given:
        key, _, found = argument.partition("=")
        if key not in ("plot", "debug"):
            raise UserError(f"{argument}: compare only has the key plot; a run is given by its directory")
    if found == "null":
        return None
    if Path(found).suffix not in (".png", ".svg"):
        raise UserError(f"plot={found}: expected a name that ends in .png or .svg, or null")
    return Path(found)


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path if these differ, otherwise the complete paths."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _read(path: Path, load: Any) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected the directory of a run that has been evaluated")
    try:
        content = load(path.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}")
    return content


def _metrics(folder: Path) -> Metrics:
    """``{"segm/AP": 30.1, ...}`` of a run's metrics.json."""
    content = _read(folder / "metrics.json", json.loads)
    return {f"{kind}/{name}": value for kind, values in content.items() for name, value in values.items()}


def _config(folder: Path) -> dict[str, str]:
    """The values of the config by dotted key, as strings."""
    leaves = flat(_read(folder / "config.yaml", yaml.safe_load))
    return {key: json.dumps(value) for key, value in leaves.items()}


def _losses(folder: Path) -> list[tuple[int, float]]:
    """(step, total loss) of a run's TensorBoard events; empty without them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: dict[int, float] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        if "loss/total" in events.Tags()["scalars"]:
            points |= {event.step: event.value for event in events.Scalars("loss/total")}
    return sorted(points.items())


def _metric_table(names: Sequence[str], metrics: Sequence[Metrics]) -> Table:
    table = Table(title="metrics", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for name in names[1:]:
        table.add_column(f"{name} − {names[0]}", justify="right")
    for key in dict.fromkeys(key for found in metrics for key in found):
        values = [found.get(key) for found in metrics]
        shown = ["–" if v is None else f"{v:.1f}" for v in values]
        first = values[0]
        gains = ["–" if v is None or first is None else f"{v - first:+.1f}" for v in values[1:]]
        table.add_row(key, *shown, *gains)
    return table


def _config_table(names: Sequence[str], configs: Sequence[dict[str, str]]) -> Table:
    table = Table(title="settings that differ", title_justify="left")
    for column in ("key", *names):
        table.add_column(column)
    for key in sorted(set().union(*configs)):
        values = [config.get(key, "–") for config in configs]
        if len(set(values)) > 1 and not key.startswith(_OF_THE_PLACE):
            table.add_row(key, *values)
    return table


def draw(
    names: Sequence[str],
    metrics: Sequence[Metrics],
    losses: Sequence[Sequence[tuple[int, float]]],
    path: Path,
) -> None:
    """Draw bars of the metrics, and the training losses if there are any.

    Args:
        names: name of each run.
        metrics: metrics of each run, in percent.
        losses: (step, loss) pairs of each run.
        path: .png or .svg file to write.
    """
    import numpy as np
    from matplotlib.figure import Figure

    keys = [
        key
        for key in dict.fromkeys(k for found in metrics for k in found)
        if any(f.get(key) for f in metrics)
    ]
    figure = Figure(figsize=(max(6, 0.45 * len(keys) * len(names)) + 4, 4), layout="constrained")
    bars, curves = figure.subplots(1, 2, width_ratios=[2, 1])
    width = 0.8 / len(names)
    for place, (name, found) in enumerate(zip(names, metrics, strict=True)):
        values = [found.get(key) or 0.0 for key in keys]
        x = np.arange(len(keys)) + (place - (len(names) - 1) / 2) * width
        bars.bar(x, values, 0.95 * width, label=name)
        if losses[place]:
            curves.plot(*np.transpose(losses[place]), lw=1)
    bars.set_xticks(range(len(keys)), keys, rotation=35, ha="right")
    bars.set(ylabel="percent", ylim=(0, None))
    curves.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    figure.legend(
        *bars.get_legend_handles_labels(), loc="outside upper center", ncols=len(names), frameon=False
    )
    figure.savefig(path, dpi=120)
