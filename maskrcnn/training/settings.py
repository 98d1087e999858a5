"""Settings of a training run: its schedule, when it saves and what it reports. It does not import torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from maskrcnn.errors import Amount, Count, Fraction, Positive, PositiveAmount, UserError


@dataclass
class Schedule:
    """Number of steps, optimizer and learning rate of a run.

    Args:
        steps: number of optimizer steps.
        batch_size: images per step, over all processes and accumulated parts.
        optimizer: ``sgd`` or ``adamw``.
        lr: learning rate for a batch of ``lr_batch_size`` images. A run uses ``lr * batch_size / lr_batch_size``
            (Goyal et al., 2017) and prints it.
        lr_batch_size: see ``lr``.
        momentum: momentum of SGD.
        weight_decay: weight decay of all trained weights.
        norm_weight_decay: also decay norm layers and biases, as the released code does.
        warmup_steps: steps over which the learning rate rises linearly.
        warmup_factor: the first step's learning rate relative to the full one.
        decay: ``cosine`` to zero, or ``multistep``: divided by 10 at ``milestones``.
        milestones: fractions of ``steps``.
        clip_norm: largest gradient norm; None does not clip.
        max_loss: a larger total loss ends the run.
        layer_decay: learning rate of a backbone stage relative to the stage above it.
        ema: decay of the moving average of the weights, which is then evaluated; None uses no average.
    """

    steps: Count = 1000
    batch_size: Positive = 8
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Amount = 0.02
    lr_batch_size: Positive = 16
    momentum: Fraction = 0.9
    weight_decay: Amount = 1e-4
    norm_weight_decay: bool = True
    warmup_steps: Count = 100
    warmup_factor: Amount = 0.001
    decay: Literal["multistep", "cosine"] = "multistep"
    milestones: list[Amount] = field(default_factory=lambda: [0.75, 0.9])
    clip_norm: PositiveAmount | None = None
    max_loss: PositiveAmount = 1e4
    layer_decay: PositiveAmount = 1.0
    ema: Fraction | None = None

    def __post_init__(self) -> None:
        if any(milestone >= 1 for milestone in self.milestones):
            meant = [round(milestone / max(self.steps, 1), 4) for milestone in self.milestones]
            raise UserError(
                f"schedule.milestones={list(self.milestones)} are fractions of schedule.steps={self.steps}, below 1: "
                f"if steps are meant, give {meant}"
            )

    @property
    def scaled_lr(self) -> float:
        """The full learning rate for this batch size."""
        return self.lr * self.batch_size / self.lr_batch_size

    @property
    def doubt(self) -> str | None:
        """A warning about a probable mistake, or None."""
        if 3 * self.warmup_steps <= self.steps:
            return None
        return (
            f"the warm-up of {self.warmup_steps} steps is more than a third of the {self.steps}: set "
            f"schedule.warmup_steps={self.steps // 10}"
        )

    def part_size(self, processes: int, accumulate: int) -> int:
        """Number of images that a process computes at once.

        Args:
            processes: number of processes.
            accumulate: parts of each step.

        Raises:
            UserError: the batch cannot be split evenly.
        """
        parts = processes * accumulate
        if self.batch_size % parts:
            next_size = -(-self.batch_size // parts) * parts
            raise UserError(
                f"schedule.batch_size={self.batch_size} images a step cannot be shared by {processes} processes x "
                f"accumulate={accumulate}; give a multiple of {parts}, for example {next_size}"
            )
        return self.batch_size // parts

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ... ``steps - 1``."""
        rate = self.scaled_lr * _decay(self.decay, self.milestones, step / max(self.steps, 1))
        if step >= self.warmup_steps:
            return rate
        return rate * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps)


def _decay(kind: str, milestones: Sequence[float], progress: float) -> float:
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return float(0.1 ** sum(progress >= milestone for milestone in milestones))


@dataclass(frozen=True)
class Checkpoints:
    """When a run saves its state.

    Args:
        every: steps between two checkpoints (last.pt). A run that is killed loses at most this many steps.
        keep: number of older checkpoints to keep as step_<step>.pt.
    """

    every: Positive = 500
    keep: Count = 1


@dataclass(frozen=True)
class Log:
    """What a run reports.

    Args:
        every: steps between two lines of the log and two points of TensorBoard's curves.
        images: number of validation images to draw at every evaluation.
        histograms: steps between histograms of weights and gradients; 0 writes none.
        profile: number of steps to trace into trace.json, after the first ten; 0 traces none.
        wandb: project of Weights & Biases to report to as well; None uses TensorBoard only.
    """

    every: Positive = 20
    images: Count = 8
    histograms: Count = 0
    profile: Count = 0
    wandb: str | None = None
