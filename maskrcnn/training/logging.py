"""Progress of a run in the terminal; curves and pictures in TensorBoard."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from torch import Tensor, nn

from maskrcnn.console import console
from maskrcnn.training.writers import open_profiler, open_writers

LARGEST_DRAWN = 9e19  # TensorBoard's outermost bins end short of 1e20


class RunLog:
    """Progress of steps ``start .. steps``, and TensorBoard events in ``run_dir``.

    A terminal shows a progress bar. Anything else (a file, a notebook, CI) gets a plain line every ``every`` steps.
    Rates and the time left are of training alone: from waiting for a step's data to its end, without evaluations and
    checkpoints.

    Args:
        run_dir: an existing folder.
        start: steps done before.
        steps: of the whole run.
        batch_size: images of a step.
        every: steps between two lines.
        histograms: steps between histograms of weights and gradients; 0 writes none.
        profile: steps to trace into trace.json.
        wandb: a project of Weights & Biases that receives the same.
        active: false in all processes of a run but one.
    """

    def __init__(
        self,
        run_dir: Path,
        start: int,
        steps: int,
        batch_size: int,
        every: int = 20,
        histograms: int = 0,
        profile: int = 0,
        wandb: str | None = None,
        active: bool = True,
    ) -> None:
        self.active = active
        self.start, self.steps, self.batch_size = start, steps, batch_size
        self.every, self.histograms = every, histograms
        self.writers = open_writers(run_dir, start, wandb) if active else []
        self.profiler = open_profiler(run_dir, profile, steps - start) if active else None
        # Seconds since the last line: waiting for data, and in steps with the wait.
        self._waited = self._worked = 0.0
        self._began, self._last = time.perf_counter(), start
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(
            TextColumn("training"),
            *columns,
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal or not active,
        )
        self.task = self.progress.add_task("training", total=steps, completed=start, status="")

    def __enter__(self) -> Self:
        self.progress.start()
        if self.profiler is not None:
            self.profiler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.profiler is not None:
            self.profiler.stop()
        for writer in self.writers:
            # On a full disk a writer fails again; what went wrong first is the news.
            with suppress(OSError) if error is not None else nullcontext():
                writer.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent within it counts as waiting for data; a step begins with it."""
        self._began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - self._began

    def due(self, step: int) -> bool:
        """Whether the step that just ended is to be reported (reading the losses waits for the device)."""
        return self.active and (step % self.every == 0 or step == self.steps)

    def step(
        self, step: int, losses: Mapping[str, Tensor], gradient_norm: Tensor, lr: float, model: nn.Module
    ) -> None:
        """``step`` steps are done; the values are read where `due`."""
        values = torch.stack(list(losses.values())).tolist() if self.due(step) else []
        self._worked += time.perf_counter() - self._began
        self.progress.update(self.task, completed=step)
        if self.profiler is not None:
            self.profiler.step()
        if self.active and self.histograms and step % self.histograms == 0:
            self._histograms(step, model)
        if values:
            self._report(step, dict(zip(losses, values, strict=True)), float(gradient_norm), lr)

    def _report(self, step: int, losses: Mapping[str, float], gradient_norm: float, lr: float) -> None:
        seconds = max(self._worked, 1e-9)
        rate, share = (step - self._last) * self.batch_size / seconds, self._waited / seconds
        total, held = sum(losses.values()), memory()
        scalars = {f"loss/{name}": value for name, value in losses.items()} | {
            "loss/total": total,
            "schedule/lr": lr,
            "schedule/gradient_norm": gradient_norm,
            "speed/images_per_second": rate,
            "speed/data_wait_share": share,
            **{f"memory/{name}_mib": mib for name, mib in held.items()},
        }
        self._scalars(scalars, step)
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        used = " ".join(f"{name.split('_')[0]} {mib / 1024:.1f}" for name, mib in held.items())
        status = f"loss {total:.3f} ({parts}) {rate:.1f} img/s, data {share:.0%}, GiB {used}"
        short = " ".join(f"{name.split('_')[-1]} {value:.2f}" for name, value in losses.items())
        left = f"{_clock((self.steps - step) * seconds / max(step - self._last, 1))} of training left"
        brief = f"{left}, loss {total:.2f} ({short}) {rate:.1f} img/s, data {share:.0%}, GiB {used}"
        self.progress.update(self.task, status=brief)
        if not console.is_terminal:
            console.print(f"step {step}/{self.steps} {status}, lr {lr:.4g}, {left}")
        self._waited, self._worked, self._last = 0.0, 0.0, step

    def metrics(self, step: int, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """Average precisions."""
        named = {f"{kind}/{name}": v for kind, values in metrics.items() for name, v in values.items()}
        self._scalars({name: value for name, value in named.items() if value is not None}, step)

    def picture(self, step: int, name: str, picture: npt.NDArray[np.uint8]) -> None:
        """A picture ``[H, W, 3]``."""
        for writer in self.writers:
            writer.add_image(name, picture, step, dataformats="HWC")

    def _scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for writer in self.writers:
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)

    def _histograms(self, step: int, model: nn.Module) -> None:
        """Of the weights of each part of the model that learn, and of their gradients.

        Values that are not finite, or as good as that, have no bin; where there are no others nothing is drawn, and the
        guard ends the run.
        """
        for name, part in model.named_children():
            learning = [p for p in part.parameters() if p.grad is not None]
            for kind, values in (("weights", learning), ("gradients", [p.grad for p in learning])):
                flat = [v.detach().flatten() for v in values if v is not None]
                known = torch.cat(flat) if flat else torch.empty(0)
                known = known[known.abs() < LARGEST_DRAWN]
                for writer in self.writers if len(known) else ():
                    writer.add_histogram(f"{kind}/{name}", known, step)


def peak_memory_mib() -> float:
    """The most memory this process has held, in MiB.

    On Linux from /proc: getrusage there counts what the parent held when it started this process, too.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text().splitlines()
        for line in status:
            if line.startswith("VmHWM"):  # sandboxes may lack it
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def memory() -> dict[str, float]:
    """Memory in MiB: the most this process has held, and the most on its device where it uses one."""
    found = {"peak_rss": peak_memory_mib()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["device_peak"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
