"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from maskrcnn.data.loader import TrainBatch
from maskrcnn.structures import Loss
from maskrcnn.training.distributed import World, without_sync
from maskrcnn.training.guard import LossGuard, Report
from maskrcnn.training.learner import Learner
from maskrcnn.training.logging import RunLog


def train(
    learner: Learner,
    batches: Iterator[TrainBatch],
    world: World,
    guard: LossGuard,
    log: RunLog,
    should_stop: Callable[[], bool],
    after_step: Callable[[int, Report | None], bool],
    start: int = 0,
    accumulate: int = 1,
) -> None:
    """Train from step ``start`` to ``schedule.steps``.

    Args:
        learner: model and optimizer.
        batches: this process's batches from step ``start`` on, ``accumulate`` per step.
        world: the processes of the run.
        guard: checks the losses.
        log: receives the losses.
        should_stop: whether this process was asked to stop.
        after_step: called with the number of finished steps and the report of the previous step. Returns True to end
            training. It may leave the model in evaluation mode.
        start: number of finished steps.
        accumulate: parts of each step.

    Raises:
        LossError: a loss was not finite or too large. It is raised one step later.
    """
    schedule, optimizer = learner.schedule, learner.optimizer
    model = world.parallel(learner.model)
    for step in range(start, schedule.steps):
        with log.waiting():
            parts = [next(batches) for _ in range(accumulate)]
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(step) * group["lr_scale"]
        optimizer.zero_grad(set_to_none=True)

        # Divide the sum over all images of the step by one number, so that the split does not matter.
        counts = world.sum(count(learner, parts)).clamp(min=1) if accumulate > 1 else torch.empty(0)
        sums = []
        for index, part in enumerate(parts):
            learner.begin_pass()
            with without_sync(model, last=index == accumulate - 1):
                with learner.autocast():
                    terms = model(*on_device(part, learner.device))
                totals, own_counts = stacked(terms)
                if accumulate == 1:
                    counts = world.sum(own_counts).clamp(min=1)
                mean = (totals * (world.size / counts)).sum()  # DDP averages the gradients over processes
                learner.scaler.scale(mean).backward()
            sums.append(totals.detach())
        # The last collective of a step precedes the update, so that either all processes update or none.
        asked = torch.full((1,), float(should_stop()), device=learner.device, dtype=totals.dtype)
        met = world.sum(torch.cat([torch.stack(sums).sum(0), asked]))
        losses, stop = met[:-1] / counts, met[-1]

        norm = _update(learner, guard, losses)
        report = guard.watch(step + 1, list(terms), losses, norm, stop, parts)
        log.step(step + 1, dict(zip(terms, losses, strict=True)), norm, schedule.lr_at(step), learner.model)
        if after_step(step + 1, report):
            return


def _update(learner: Learner, guard: LossGuard, losses: Tensor) -> Tensor:
    """Update the weights, unless ``guard`` forbids it.

    Args:
        learner: model and optimizer.
        guard: checks the losses.
        losses: ``[L]``, the terms of the step.

    Returns:
        The norm of the gradients before clipping.
    """
    optimizer, scaler, clip_norm = learner.optimizer, learner.scaler, learner.schedule.clip_norm
    gradients = [p.grad for p in learner.model.parameters() if p.grad is not None]
    if scaler.is_enabled():
        # The scaler's overflow check finds the NaN and skips the update.
        gradients[0].mul_(torch.where(guard.note(losses) > 0, torch.nan, 1.0))
    scaler.unscale_(optimizer)
    norm = get_total_norm(gradients, foreach=True)
    if clip_norm is not None:
        clip_grads_with_norm_(learner.model.parameters(), clip_norm, norm, foreach=True)
    if scaler.is_enabled():
        guard.note_overflow(norm)
    else:
        skip = guard.note(losses, norm)
        optimizer.found_inf = skip  # type: ignore[attr-defined]  # fused optimizers skip the update if this is set
    scaler.step(optimizer)
    scaler.update()
    if learner.ema is not None:
        learner.ema.update(learner.model)
    return norm


def stacked(terms: dict[str, Loss]) -> tuple[Tensor, Tensor]:
    """Stack the totals ``[L]`` and the counts ``[L]`` of the loss terms."""
    totals = torch.stack([loss.total for loss in terms.values()])
    return totals, torch.stack([loss.count for loss in terms.values()]).to(totals.dtype)


def on_device(part: TrainBatch, device: torch.device) -> tuple[object, ...]:
    """Copy the model's arguments to the device without synchronising."""
    records = (part.images, part.targets, part.proposals)
    return tuple(None if r is None else r.to(device, non_blocking=True) for r in records)


@torch.no_grad()
def count(learner: Learner, parts: Sequence[TrainBatch]) -> Tensor:
    """Compute the numbers ``[L]`` that the losses of ``parts`` are divided by.

    The first part's backward pass needs the number of regions that all parts sample, which is known only after their
    forward passes. Accumulation therefore costs one more forward pass. It draws the same random numbers as the later
    passes, so both drop the same rows and sample the same regions.

    Args:
        learner: model and device.
        parts: all batches of this process in a step.
    """
    with _unchanged(learner.model, learner.device), learner.autocast():
        found = [stacked(learner.model(*on_device(part, learner.device)))[1] for part in parts]
    return torch.stack(found).sum(0)


@contextmanager
def _unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """A context that restores buffers (running statistics, counters) and torch's random state when it ends."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    for buffer, before in kept:
        buffer.copy_(before)
