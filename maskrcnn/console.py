"""The console that every command prints to, and the table of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

# Print file and class names literally, even if they look like markup or an emoji code.
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def metrics_table(metrics: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A table of average precisions in percent, one row per kind; an undefined value is a dash.

    Args:
        metrics: ``{"segm": {"AP": 30.3, ...}, ...}``.
        title: printed above the table.
    """
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    table = Table(title=title, title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right")
    for kind, values in metrics.items():
        table.add_row(kind, *("-" if values.get(n) is None else f"{values[n]:.1f}" for n in names))
    return table
