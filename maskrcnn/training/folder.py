"""The folder that a command writes into."""

from __future__ import annotations

import datetime
from pathlib import Path

from maskrcnn.console import console
from maskrcnn.errors import UserError


def open_run_dir(run_dir: str | Path | None) -> Path:
    """The run directory, created if it does not exist; ``runs/<date-time>`` for None."""
    path = Path(run_dir or f"runs/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir={path} cannot be made: {error}") from error
    console.print(f"run directory: {path}")
    return path
