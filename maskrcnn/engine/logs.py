"""What a person sees of a run: a progress bar in the terminal, curves and pictures in TensorBoard."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

console = Console(highlight=False, soft_wrap=True)


class RunLog:
    """Progress of steps ``start .. steps``, and TensorBoard events in ``run_dir``.

    A terminal shows a moving bar; anything else (a file, CI) gets a plain line every ``every`` steps.
    """

    def __init__(self, run_dir: Path, start: int, steps: int, batch_size: int, every: int) -> None:
        self.writer = SummaryWriter(str(run_dir))
        self.start, self.steps, self.batch_size, self.every = start, steps, batch_size, every
        self.waited = 0.0  # seconds spent waiting for data since the last line
        self._since, self._last = time.perf_counter(), start
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(
            TextColumn("training"),
            *columns,
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("training", total=steps, completed=start, status="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.writer.close()

    def due(self, step: int) -> bool:
        """Whether the step that just ended is to be reported (reading the losses waits for the device)."""
        return step % self.every == 0 or step == self.steps

    def step(self, step: int, losses: Mapping[str, float] | None, lr: float) -> None:
        """``step`` steps are done; ``losses`` are given where `due`."""
        self.progress.update(self.task, completed=step)
        if losses is None:
            return
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rate = (step - self._last) * self.batch_size / seconds
        total = sum(losses.values())
        scalars = {f"loss/{name}": value for name, value in losses.items()} | {
            "loss/total": total,
            "schedule/lr": lr,
            "speed/images_per_second": rate,
            "speed/data_wait_share": self.waited / seconds,
            "memory/peak_rss_mib": peak_memory_mib(),
        }
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        status = f"loss {total:.3f} ({parts}) {rate:.1f} img/s, data {self.waited / seconds:.0%}"
        short = " ".join(f"{name.split('_')[-1]} {value:.2f}" for name, value in losses.items())
        self.progress.update(self.task, status=f"loss {total:.2f} ({short}) {rate:.1f} img/s")
        if not console.is_terminal:
            left = (self.steps - step) * seconds / max(step - self._last, 1)
            console.print(f"step {step}/{self.steps} {status}, lr {lr:.4g}, {_clock(left)} left")
        self.waited, self._since, self._last = 0.0, time.perf_counter(), step

    def metrics(self, step: int, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """Average precisions into TensorBoard."""
        for kind, values in metrics.items():
            for name, value in values.items():
                if value is not None:
                    self.writer.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, step: int, name: str, picture: npt.NDArray[np.uint8]) -> None:
        """A picture ``[H, W, 3]`` into TensorBoard."""
        self.writer.add_image(name, picture, step, dataformats="HWC")


def metrics_table(metrics: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Average precisions in percent, one row per kind; an undefined one is a dash."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    table = Table(title=title, title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right")
    for kind, values in metrics.items():
        table.add_row(kind, *("-" if values.get(n) is None else f"{values[n]:.1f}" for n in names))
    return table


def peak_memory_mib() -> float:
    """The most memory this process has held, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
