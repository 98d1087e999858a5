"""The training loop, from the first step to the last, in order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from maskrcnn.data.loader import TrainBatch
from maskrcnn.engine.logs import RunLog
from maskrcnn.engine.schedule import Schedule
from maskrcnn.errors import UserError
from maskrcnn.models.mask_rcnn import MaskRCNN


def train(
    model: MaskRCNN,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    batches: Iterator[TrainBatch],
    device: torch.device,
    log: RunLog,
    start: int = 0,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train from step ``start`` to ``schedule.steps``.

    batches: from step ``start`` on. after_step: called with the number of steps done (checkpoints, evaluation);
    it may leave the model in evaluation mode. Raises UserError where a loss is not finite.
    """
    for step in range(start, schedule.steps):
        began = time.perf_counter()
        images, targets, image_ids, proposals = next(batches)
        log.waited += time.perf_counter() - began

        model.train()
        lr = schedule.lr_at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        given = None if proposals is None else proposals.to(device, non_blocking=True)
        terms = model(images.to(device, non_blocking=True), targets.to(device, non_blocking=True), given)
        losses = {name: loss.total / loss.count.clamp(min=1) for name, loss in terms.items()}
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        if schedule.clip_norm is not None:
            clip_grad_norm_(model.parameters(), schedule.clip_norm)
        optimizer.step()

        values = _values(losses, step, image_ids) if log.due(step + 1) or device.type == "cpu" else None
        log.step(step + 1, values if log.due(step + 1) else None, lr)
        after_step(step + 1)


def _values(losses: dict[str, Tensor], step: int, image_ids: list[int]) -> dict[str, float]:
    """The losses as numbers; on a device this waits for it, so it is asked for only where they are shown."""
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    if not all(map(math.isfinite, values.values())):
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise UserError(
            f"the loss is not finite at step {step + 1} ({parts}; images {image_ids}). "
            "The usual reason is a learning rate too high for the batch: lower schedule.lr, raise "
            "schedule.warmup_steps or set schedule.clip_norm"
        )
    return values
