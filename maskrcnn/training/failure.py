"""Stores a failed training step, and repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from maskrcnn.training.loop import on_device

RECORDS: Any = [TrainBatch, Images, Targets, MaskBitmaps, Proposals]


def save_failed_step(
    path: Path, model: MaskRCNN, config: dict[str, Any], report: Report, parts: Sequence[TrainBatch]
) -> str:
    """Write the weights before the step, its complete batch and its losses.

    Args:
        path: the file.
        model: with the weights before the step.
        config: the run's config.
        report: the losses of the step.
        parts: the batches of all parts.

    Returns:
        A message: how to repeat the step, or why the file could not be written.
    """
    content = {
        "model": model.state_dict(),
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
    """Describe a failed step: its number, losses and images.

    Args:
        report: the losses of the step.
        parts: the batches of all parts.
        limit: largest allowed total loss.
    """
    losses = ", ".join(f"{name} {value:.4g}" for name, value in report.losses.items())
    finite = abs(sum(report.losses.values())) < float("inf")
    what = f"has diverged (above schedule.max_loss={limit:g})" if finite else "is not finite"
    if finite and abs(sum(report.losses.values())) <= limit:
        what = "has a gradient that is not finite"
    images = [image_id for part in parts for image_id in part.image_ids]
    return (
        f"the loss {what} at step {report.step} ({losses}; gradient norm {report.gradient_norm:.4g}; images {images}). "
        "The usual reason is a learning rate too high for the batch: lower schedule.lr, raise "
        "schedule.warmup_steps or set schedule.clip_norm; the same run_dir resumes with them from its last checkpoint."
    )


def load_failed_step(path: str | Path) -> dict[str, Any]:
    """Load the file of `save_failed_step`. Raises UserError for another kind of file."""
    with torch.serialization.safe_globals(RECORDS):
        return checkpoint.load_model(path, ("model", "config", "step", "losses", "batch"))


class Replayed(NamedTuple):
    """Results of `replay`.

    Attributes:
        losses: losses by name.
        module: the first module whose output was not finite, or None.
        gradients: if all outputs were finite, the parameters with non-finite gradients, in the order of the backward
            pass.
    """

    losses: dict[str, float]
    module: str | None
    gradients: list[str]


def replay(
    model: MaskRCNN, parts: Sequence[TrainBatch], device: torch.device, precision: Precision
) -> Replayed:
    """Compute the losses of a batch, and the gradients if all outputs are finite.

    Args:
        model: with the weights before the step.
        parts: the batches of all parts.
        device: the model's device.
        precision: precision of the arithmetic.
    """
    model.train()
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    with _watched(model) as (modules, gradients):
        for part in parts:
            with autocast(precision, device):
                terms = model(*on_device(part, device))
            for name, loss in terms.items():
                totals[name] = totals.get(name, 0.0) + float(loss.total.detach())
                counts[name] = counts.get(name, 0.0) + float(loss.count)
            if not modules and not gradients:
                means = [loss.total / loss.count.clamp(min=1) for loss in terms.values()]
                torch.stack(means).sum().backward()
    losses = {name: total / max(counts[name], 1.0) for name, total in totals.items()}
    return Replayed(losses, modules[0] if modules else None, gradients)


@contextmanager
def _watched(model: nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    """A context that lists, in order, the modules with non-finite outputs and the parameters with such gradients."""
    modules: list[str] = []
    gradients: list[str] = []

    def look(name: str, value: Any, found: list[str]) -> None:
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: look(name, out, modules))
        for name, module in model.named_modules()
        if name
    ]
    hooks += [
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: look(name, p.grad, gradients))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield modules, gradients
    finally:
        for hook in hooks:
            hook.remove()
