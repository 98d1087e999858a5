"""Loss terms of the RPN and the heads. Each is a sum; `Loss` also has the number to divide it by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.models.precision import full_precision
from maskrcnn.models.protocols import MaskLoss
from maskrcnn.structures import Loss


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


class Sigmoid:
    """Mask loss with a map per class and no competition: binary cross entropy of the true class's map.

    It is the paper's. Its Table 2b compares it with `Softmax`.
    """

    def num_maps(self, num_classes: int) -> int:
        """One per class."""
        return num_classes

    def __call__(self, logits: Tensor, masks: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Binary cross entropy. Arguments as in `MaskLoss`."""
        return binary(own_map(logits, labels), masks, chosen[:, None, None], chosen).total

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sigmoid of the map of each region's class. Arguments as in `MaskLoss`."""
        return own_map(logits, labels).sigmoid()


class ClassAgnostic(Sigmoid):
    """Mask loss with one map for all classes: binary cross entropy."""

    def num_maps(self, num_classes: int) -> int:
        """One."""
        return 1


class Softmax:
    """Mask loss with a map per class and one for background, which compete for every cell: cross entropy."""

    def num_maps(self, num_classes: int) -> int:
        """One per class, and one for background, which is the last."""
        return num_classes + 1

    def __call__(self, logits: Tensor, masks: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Cross entropy of each cell with the region's class or background. Arguments as in `MaskLoss`."""
        background = logits.shape[1] - 1
        wanted = torch.where(masks > 0.5, labels[:, None, None], background)
        return multiclass(logits, wanted, chosen[:, None, None], chosen).total

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Softmax over the maps, at the map of each region's class. Arguments as in `MaskLoss`."""
        return own_map(logits.softmax(1), labels)


def own_map(maps: Tensor, labels: Tensor) -> Tensor:
    """Select the map of each region's class, or the only map.

    Args:
        maps: ``[R, num_maps, M, M]``.
        labels: ``[R]`` int64.

    Returns:
        ``[R, M, M]``.
    """
    if maps.shape[1] == 1:
        return maps[:, 0]
    return maps.gather(1, labels[:, None, None, None].expand(-1, 1, *maps.shape[2:]))[:, 0]


MASK_LOSSES: dict[str, MaskLoss] = {
    "sigmoid": Sigmoid(),
    "class_agnostic": ClassAgnostic(),
    "softmax": Softmax(),
}
