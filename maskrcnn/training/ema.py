"""An exponential moving average of the weights, for evaluation and for use after training."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class Ema(Generic[Model]):
    """Moving average ``average = decay * average + (1 - decay) * weights`` after every step.

    torch's `AveragedModel` is not used: it reads its counter on the host in every step, and its first update replaces
    the average.

    Args:
        model: its weights are copied. Buffers (running statistics) are copied in every step and not averaged.
        decay: weight of the old average.

    Attributes:
        model: the averaged copy, in evaluation mode.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Add the weights of ``model`` after a step."""
        averaged: list[Tensor] = list(self.model.parameters())
        current: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(averaged, current, 1 - self.decay)
        torch._foreach_copy_(list(self.model.buffers()), list(model.buffers()))
