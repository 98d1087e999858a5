"""Stores a step that went wrong, and runs it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.data.loader import TrainBatch
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.structures import Images, MaskBitmaps, Proposals, Targets
from maskrcnn.training import checkpoint
from maskrcnn.training.guard import Report
from maskrcnn.training.learner import Learner
from maskrcnn.training.loop import on_device

RECORDS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    TrainBatch,
    Images,
    Targets,
    MaskBitmaps,
    Proposals,
]


def save_failed_step(
    path: Path, learner: Learner, config: dict[str, Any], report: Report, parts: Sequence[TrainBatch]
) -> str:
    """Write the weights that the step began with, its whole batch and its losses.

    Returns:
        A message: how to run the step again, or why the file could not be written.
    """
    content = {
        "model": learner.model.state_dict(),
        "config": config,
        "step": report.step,
        "losses": report.losses,
        "batch": list(parts),
    }
    try:
        checkpoint.save(path, content)
    except OSError as error:
        return f"The weights before the step and its batch could not be kept in {path}: {error}"
    return (
        "The weights before the step and its batch are kept; see where it goes wrong with\n"
        f"  tools/replay.py step={path}"
    )


def describe(report: Report, parts: Sequence[TrainBatch], limit: float) -> str:
    """Step, losses and images."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in report.losses.items())
    finite = abs(sum(report.losses.values())) < float("inf")
    what = f"has run away (beyond schedule.max_loss={limit:g})" if finite else "is not finite"
    if finite and abs(sum(report.losses.values())) <= limit:
        what = "has a gradient that is not finite"
    images = [image_id for part in parts for image_id in part.image_ids]
    return (
        f"the loss {what} at step {report.step} ({losses}; gradient norm {report.gradient_norm:.4g}; images {images}). "
        "The usual reason is a learning rate too high for the batch: lower schedule.lr, raise "
        "schedule.warmup_steps or set schedule.clip_norm; the same run_dir resumes with them from its last checkpoint."
    )


def load_failed_step(path: str | Path) -> dict[str, Any]:
    """What `save_failed_step` wrote. Raises UserError for another kind of file."""
    with torch.serialization.safe_globals(RECORDS):
        return checkpoint.load_model(path, ("model", "config", "step", "losses", "batch"))


class Replayed(NamedTuple):
    """losses: by name. module: the first whose output was not finite. gradients: where all outputs were finite, the
    parameters whose gradient was not, in the order in which the backward pass came to them."""

    losses: dict[str, float]
    module: str | None
    gradients: list[str]


def replay(
    model: MaskRCNN, parts: Sequence[TrainBatch], device: torch.device, precision: Precision
) -> Replayed:
    """Compute the losses of a batch again, and their gradients if nothing went wrong before."""
    model.train()
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    with _watched(model) as seen, _watched_gradients(model) as bad:
        for part in parts:
            with autocast(precision, device):
                terms = model(*on_device(part, device))
            for name, loss in terms.items():
                totals[name] = totals.get(name, 0.0) + float(loss.total.detach())
                counts[name] = counts.get(name, 0.0) + float(loss.count)
            if not seen and not bad:
                torch.stack(
                    [loss.total / loss.count.clamp(min=1) for loss in terms.values()]
                ).sum().backward()
    losses = {name: total / max(counts[name], 1.0) for name, total in totals.items()}
    return Replayed(losses, seen[0] if seen else None, bad)


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that returned something not finite, in order."""
    seen: list[str] = []

    def look(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            seen.append(name)

    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: look(name, out))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _watched_gradients(model: nn.Module) -> Iterator[list[str]]:
    """The names of the parameters that received a gradient that is not finite, in order."""
    seen: list[str] = []

    def look(name: str, parameter: Tensor) -> None:
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            seen.append(name)

    hooks = [
        parameter.register_post_accumulate_grad_hook(partial(look, name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
