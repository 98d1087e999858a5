"""Losses of the mask head, with and without competition between classes (Mask R-CNN, Table 2b)."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.models.losses import binary, multiclass
from maskrcnn.models.protocols import MaskLoss


class Sigmoid:
    """One map per class without competition: binary cross entropy of the true class's map."""

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
    """One map for all classes: binary cross entropy."""

    def num_maps(self, num_classes: int) -> int:
        """One."""
        return 1


class Softmax:
    """One map per class and one for background, which compete for every cell: cross entropy."""

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
