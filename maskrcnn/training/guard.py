"""Stops a run whose loss is not finite or too large, without synchronising with the device.

The device records the first bad step and makes no further update. The host reads the record one step later, when the
weights are still those before the bad step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn.data.loader import TrainBatch

# Loss scaling halves its scale after every overflow. This many in a row reduce it from 65,536 to almost zero.
OVERFLOWS = 32


class Report(NamedTuple):
    """What the host knows about a step.

    Attributes:
        step: number of the step, counted from 1.
        losses: losses by name.
        gradient_norm: norm of the gradients before clipping.
        stop: whether a process was asked to stop.
    """

    step: int
    losses: dict[str, float]
    gradient_norm: float
    stop: bool


class LossError(Exception):
    """A bad step. ``report`` has its losses, and ``parts`` its batches in this process."""

    def __init__(self, report: Report, parts: Sequence[TrainBatch]) -> None:
        super().__init__(f"step {report.step}")
        self.report, self.parts = report, parts


class _Pending(NamedTuple):
    step: int
    names: list[str]
    values: Tensor  # [losses..., gradient norm, stop, broken] on the host, valid after ``done``
    done: torch.cuda.Event | None
    parts: Sequence[TrainBatch]


class LossGuard:
    """Checks the losses and gradients of every step.

    Args:
        device: device of the losses.
        limit: a larger total loss is bad.
    """

    def __init__(self, device: torch.device, limit: float) -> None:
        self.limit = limit
        self.broken = torch.zeros((), device=device)  # 1 from the first bad step on
        self._overflows = torch.zeros((), device=device)  # consecutive overflows
        self._pending: _Pending | None = None

    def note(self, losses: Tensor, gradient_norm: Tensor | None = None) -> Tensor:
        """Record on the device whether a step is good.

        Args:
            losses: ``[L]``, the terms of the step.
            gradient_norm: a scalar; None is not checked.

        Returns:
            A scalar: 1 if no update may follow, else 0.
        """
        sound = losses.sum().abs() <= self.limit
        if gradient_norm is not None:
            sound = sound & gradient_norm.isfinite()
        self.broken = torch.maximum(self.broken, (~sound).float())
        return self.broken

    def note_overflow(self, gradient_norm: Tensor) -> None:
        """Record an overflow. With loss scaling, single overflows are normal."""
        self._overflows = torch.where(gradient_norm.isfinite(), 0.0, self._overflows + 1)
        self.broken = torch.maximum(self.broken, (self._overflows >= OVERFLOWS).float())

    def watch(
        self,
        step: int,
        names: list[str],
        losses: Tensor,
        gradient_norm: Tensor,
        stop: Tensor,
        parts: Sequence[TrainBatch],
    ) -> Report | None:
        """Start copying a step's values to the host.

        Args:
            step: number of the step, counted from 1.
            names: names of the loss terms.
            losses: ``[L]``.
            gradient_norm: a scalar.
            stop: number of processes that were asked to stop.
            parts: the batch, for the report of a bad step.

        Returns:
            The report of the previous step; None for the first one.

        Raises:
            LossError: the previous step was bad.
        """
        last = torch.stack([value.to(losses.dtype) for value in (gradient_norm, stop, self.broken)])
        values = torch.cat([losses, last]).to("cpu", non_blocking=True)
        done = None
        if losses.is_cuda:
            done = torch.cuda.Event()
            done.record()
        before = self.settle()
        self._pending = _Pending(step, names, values, done, parts)
        return before

    def settle(self) -> Report | None:
        """Wait for the last step's values, before anything is saved.

        Returns:
            The step's report; None if it was already returned.

        Raises:
            LossError: the step was bad.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        if pending.done is not None:
            pending.done.synchronize()  # returns at once in `watch`, because a complete step was enqueued since
        *losses, norm, stop, broken = pending.values.tolist()
        named = dict(zip(pending.names, losses, strict=True))
        report = Report(pending.step, named, norm, stop > 0)
        if broken:
            raise LossError(report, pending.parts)
        return report
