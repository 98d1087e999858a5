"""Writers of a run's metrics: TensorBoard, Weights & Biases, and a trace of the profiler."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.profiler import profile, schedule
from torch.utils.tensorboard import SummaryWriter

from maskrcnn.errors import UserError

STEPS_BEFORE_TRACE = 10


class Wandb:
    """Reports to a project of Weights & Biases, by the methods of TensorBoard's SummaryWriter.

    A resumed run directory continues the same run there. Its settings are those of ``run_dir``/config.yaml.

    Args:
        run_dir: the run directory.
        project: name of the project.

    Raises:
        UserError: wandb cannot start.
    """

    def __init__(self, run_dir: Path, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"log.wandb={project} needs wandb: pip install 'maskrcnn[wandb]'") from error
        self._wandb = wandb
        known = run_dir / "wandb_id"
        if not known.exists():
            known.write_text(uuid.uuid4().hex[:12])
        settings = run_dir / "config.yaml"
        try:
            self._run = wandb.init(
                project=project,
                dir=str(run_dir),
                name=run_dir.name,
                id=known.read_text(),
                resume="allow",
                config=yaml.safe_load(settings.read_text()) if settings.exists() else None,
            )
        except Exception as error:  # wandb's exceptions, and those of its network libraries
            raise UserError(
                f"log.wandb={project}: wandb cannot start ({type(error).__name__}: {error}); log in (wandb login), "
                "write to files alone (WANDB_MODE=offline), or leave log.wandb=null"
            ) from error

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self._run.log({tag: scalar_value}, step=global_step)

    def add_image(self, tag: str, img_tensor: Any, global_step: int, *, dataformats: str) -> None:
        self._run.log({tag: self._wandb.Image(img_tensor)}, step=global_step)

    def add_histogram(self, tag: str, values: torch.Tensor, global_step: int) -> None:
        self._run.log({tag: self._wandb.Histogram(values.cpu().numpy())}, step=global_step)

    def close(self) -> None:
        self._run.finish()


Writer = SummaryWriter | Wandb


def open_writers(run_dir: Path, start: int, project: str | None) -> list[Writer]:
    """Open TensorBoard, and Weights & Biases if a project is given.

    Args:
        run_dir: the run directory.
        start: number of finished steps. TensorBoard drops events of later steps, which a killed run wrote.
        project: name of a project of Weights & Biases, or None.
    """
    others = [] if project is None else [Wandb(run_dir, project)]  # first, because it may raise an error
    return [SummaryWriter(str(run_dir), purge_step=start + 1 if start else 0), *others]


def open_profiler(run_dir: Path, steps: int, left: int) -> profile | None:
    """Open a profiler that writes ``run_dir``/trace.json (open it in ui.perfetto.dev).

    Args:
        run_dir: the run directory.
        steps: number of steps to trace: those after the first `STEPS_BEFORE_TRACE`, or the last ones of a shorter run.
        left: number of steps that this process trains.

    Returns:
        The profiler, or None if there is no step to trace.
    """
    traced = min(steps, left)
    if traced <= 0:
        return None
    before = min(STEPS_BEFORE_TRACE, left - traced)
    warmup = min(before, 1)
    return profile(
        schedule=schedule(wait=before - warmup, warmup=warmup, active=traced, repeat=1),
        on_trace_ready=lambda trace: trace.export_chrome_trace(str(run_dir / "trace.json")),
    )
