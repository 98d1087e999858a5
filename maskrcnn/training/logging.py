"""Reports the progress of a run in the terminal, and curves and pictures in TensorBoard."""

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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from maskrcnn.console import console
from maskrcnn.training.settings import Log
from maskrcnn.training.writers import open_profiler, open_writers

LARGEST_DRAWN = 9e19  # TensorBoard's outermost bins end short of 1e20


class RunLog:
    """Progress from step ``start`` to ``steps``, and TensorBoard events in ``run_dir``.

    A terminal shows a progress bar. Other outputs (a file, a notebook, CI) get a line every ``settings.every`` steps.
    Rates and the remaining time exclude evaluations and checkpoints.

    Args:
        run_dir: an existing folder.
        start: number of finished steps.
        steps: number of steps of the complete run.
        batch_size: images per step.
        settings: what to report; None is ``Log()``.
        active: False in all processes except one.
    """

    def __init__(
        self,
        run_dir: Path,
        start: int,
        steps: int,
        batch_size: int,
        settings: Log | None = None,
        active: bool = True,
    ) -> None:
        self.active, self.settings = active, settings or Log()
        self.steps, self.batch_size = steps, batch_size
        self.writers = open_writers(run_dir, start, self.settings.wandb) if active else []
        self.profiler = open_profiler(run_dir, self.settings.profile, steps - start) if active else None
        # Seconds since the last line: waiting for data, and in steps including the waiting.
        self._waited = self._worked = 0.0
        self._began, self._last = time.perf_counter(), start
        columns = (TextColumn("training"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(
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
            # On a full disk a writer fails again; report the first error.
            with suppress(OSError) if error is not None else nullcontext():
                writer.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time counts as waiting for data. A step begins with it."""
        self._began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - self._began

    def step(
        self, step: int, losses: Mapping[str, Tensor], gradient_norm: Tensor, lr: float, model: nn.Module
    ) -> None:
        """Report a finished step. Values are read only if a line is due, because that synchronises with the device.

        Args:
            step: number of finished steps.
            losses: scalar losses by name.
            gradient_norm: a scalar.
            lr: learning rate.
            model: for histograms of its weights and gradients.
        """
        due = self.active and (step % self.settings.every == 0 or step == self.steps)
        values = torch.stack(list(losses.values())).tolist() if due else []
        self._worked += time.perf_counter() - self._began
        self.progress.update(self.task, completed=step)
        if self.profiler is not None:
            self.profiler.step()
        if self.active and self.settings.histograms and step % self.settings.histograms == 0:
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
        minutes, rest = divmod(round((self.steps - step) * seconds / max(step - self._last, 1)), 60)
        left = f"{minutes}:{rest:02d} of training left"
        brief = f"{left}, loss {total:.2f} ({short}) {rate:.1f} img/s, data {share:.0%}, GiB {used}"
        self.progress.update(self.task, status=brief)
        if not console.is_terminal:
            console.print(f"step {step}/{self.steps} {status}, lr {lr:.4g}, {left}")
        self._waited, self._worked, self._last = 0.0, 0.0, step

    def metrics(self, step: int, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """Report average precisions, ``{"segm": {"AP": 30.3}}`` after ``step`` steps."""
        named = {f"{kind}/{name}": v for kind, values in metrics.items() for name, v in values.items()}
        self._scalars({name: value for name, value in named.items() if value is not None}, step)

    def picture(self, step: int, name: str, picture: npt.NDArray[np.uint8]) -> None:
        """Report a picture.

        Args:
            step: number of finished steps.
            name: its name in TensorBoard.
            picture: ``[H, W, 3]`` RGB.
        """
        for writer in self.writers:
            writer.add_image(name, picture, step, dataformats="HWC")

    def _scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for writer in self.writers:
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)

    def _histograms(self, step: int, model: nn.Module) -> None:
        """Write histograms of the trained weights of each part of the model, and of their gradients.

        Values that are not finite or extremely large have no bin. If there are no other values, nothing is drawn; the
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
    """The peak memory of this process in MiB.

    On Linux it is read from /proc, because getrusage includes the parent's memory at the time of the fork.
    """
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):  # missing in some sandboxes
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def memory() -> dict[str, float]:
    """Peak memory of this process, and of its device if it uses one, in MiB."""
    found = {"peak_rss": peak_memory_mib()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["device_peak"] = torch.cuda.max_memory_allocated() / 2**20
    return found
