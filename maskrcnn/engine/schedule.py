"""How long, how fast and with which optimizer: the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn


@dataclass
class Schedule:
    """The numbers of a training run.

    steps: optimizer steps. batch_size: images per step. lr: the rate for a batch of ``lr_batch_size`` images; the run
    uses ``lr * batch_size / lr_batch_size`` (Goyal et al., 2017), and says so. warmup_steps: linear rise from
    ``warmup_factor`` of the rate. decay: ``cosine`` to zero, or ``multistep``, divided by 10 at ``milestones``
    (fractions of ``steps``). norm_weight_decay: weight decay also on norm layers and biases, as the released code does.
    clip_norm: largest gradient norm; None is no clipping.
    """

    steps: int = 1000
    batch_size: int = 8
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.02
    lr_batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4
    norm_weight_decay: bool = True
    warmup_steps: int = 100
    warmup_factor: float = 0.001
    decay: Literal["multistep", "cosine"] = "multistep"
    milestones: list[float] = field(default_factory=lambda: [0.75, 0.9])
    clip_norm: float | None = None

    @property
    def scaled_lr(self) -> float:
        """The rate at full height for this batch size."""
        return self.lr * self.batch_size / self.lr_batch_size

    def lr_at(self, step: int) -> float:
        """The rate of step 0, 1, ... ``steps - 1``."""
        rate = self.scaled_lr * _decay(self.decay, self.milestones, step / max(self.steps, 1))
        if step >= self.warmup_steps:
            return rate
        return rate * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps)


def _decay(kind: str, milestones: Sequence[float], progress: float) -> float:
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return float(0.1 ** sum(progress >= milestone for milestone in milestones))


def build_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that learn; norm layers and biases without decay if so asked."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in _learning(model.parameters()):
        (decayed if schedule.norm_weight_decay or parameter.dim() > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.scaled_lr, fused=True)
    return torch.optim.SGD(groups, lr=schedule.scaled_lr, momentum=schedule.momentum, fused=True)


def _learning(parameters: Iterable[nn.Parameter]) -> Iterable[nn.Parameter]:
    return (parameter for parameter in parameters if parameter.requires_grad)
