"""The loss terms that the RPN and the heads share. Each is a sum; `Loss` keeps what to divide it by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.structures import Loss


def full_precision(x: Tensor) -> Tensor:
    """bfloat16 and float16 raised to float32; float32 and float64 as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def smooth_l1(prediction: Tensor, target: Tensor, chosen: Tensor, beta: float, count: Tensor) -> Loss:
    """Smooth L1 of deltas ``[N, K, 4]``, summed where ``chosen`` ``[N, K]`` (Fast R-CNN, equation 3).

    ``0.5 x^2 / beta`` below ``beta``, ``|x| - 0.5 beta`` above; ``beta = 0`` is L1.
    """
    prediction = full_precision(prediction)
    target = torch.where(chosen[..., None], target.to(prediction.dtype), prediction.detach())
    return Loss(F.smooth_l1_loss(prediction, target, beta=beta, reduction="sum"), count)


def binary(logits: Tensor, target: Tensor, chosen: Tensor, count: Tensor) -> Loss:
    """Binary cross entropy of logits of any shape, summed where ``chosen`` (same shape, or broadcast)."""
    logits = full_precision(logits)
    each = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return Loss((each * chosen).sum(), count)


def multiclass(logits: Tensor, target: Tensor, chosen: Tensor, count: Tensor) -> Loss:
    """Softmax cross entropy of logits ``[R, K, ...]`` and classes ``[R, ...]``, summed where ``chosen``."""
    each = F.cross_entropy(full_precision(logits), target, reduction="none")
    return Loss((each * chosen).sum(), count)
