"""Loss terms that the RPN and the heads share. Each is a sum; `Loss` also has the number to divide it by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.structures import Loss


def full_precision(x: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32. Keep float32 and float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def smooth_l1(prediction: Tensor, target: Tensor, chosen: Tensor, beta: float, count: Tensor) -> Loss:
    """Smooth L1 loss of box deltas (Fast R-CNN, equation 3).

    ``0.5 x^2 / beta`` below ``beta`` and ``|x| - 0.5 beta`` above it; ``beta = 0`` is L1.

    Args:
        prediction: ``[N, K, 4]``.
        target: ``[N, K, 4]``.
        chosen: ``[N, K]`` bool, the boxes that count.
        beta: see above.
        count: scalar to divide the sum by later.
    """
    prediction = full_precision(prediction)
    target = torch.where(chosen[..., None], target.to(prediction.dtype), prediction.detach())
    return Loss(F.smooth_l1_loss(prediction, target, beta=beta, reduction="sum"), count)


def binary(logits: Tensor, target: Tensor, chosen: Tensor, count: Tensor) -> Loss:
    """Binary cross entropy.

    Args:
        logits: any shape.
        target: same shape, 0 or 1.
        chosen: same shape, or broadcast to it: the entries that count.
        count: scalar to divide the sum by later.
    """
    logits = full_precision(logits)
    each = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return Loss((each * chosen).sum(), count)


def multiclass(logits: Tensor, target: Tensor, chosen: Tensor, count: Tensor) -> Loss:
    """Softmax cross entropy.

    Args:
        logits: ``[R, K, ...]``.
        target: classes ``[R, ...]``.
        chosen: ``[R, ...]`` bool, the entries that count.
        count: scalar to divide the sum by later.
    """
    each = F.cross_entropy(full_precision(logits), target, reduction="none")
    return Loss((each * chosen).sum(), count)
