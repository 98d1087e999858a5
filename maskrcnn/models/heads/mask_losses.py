"""Losses of the mask head: do the classes of a region compete for its cells? (Mask R-CNN, Table 2b)"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.models.losses import binary, multiclass
from maskrcnn.models.protocols import MaskLoss


class Sigmoid:
    """A map for each class and no competition between classes: binary cross entropy of the true class's map."""

    def num_maps(self, num_classes: int) -> int:
        """One for each class."""
        return num_classes

    def __call__(self, logits: Tensor, masks: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Binary cross entropy, arguments as in `MaskLoss`."""
        return binary(own_map(logits, labels), masks, chosen[:, None, None], chosen).total

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sigmoid of each region's own map."""
        return own_map(logits, labels).sigmoid()


class ClassAgnostic(Sigmoid):
    """One map for whatever object the region holds: binary cross entropy."""

    def num_maps(self, num_classes: int) -> int:
        """One."""
        return 1


class Softmax:
    """All classes and background compete for every cell: cross entropy."""

    def num_maps(self, num_classes: int) -> int:
        """One for each class, and the last one for background."""
        return num_classes + 1

    def __call__(self, logits: Tensor, masks: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Cross entropy of cells with the region's class or background, arguments as in `MaskLoss`."""
        background = logits.shape[1] - 1
        wanted = torch.where(masks > 0.5, labels[:, None, None], background)
        return multiclass(logits, wanted, chosen[:, None, None], chosen).total

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The softmax over the maps, read at each region's own map."""
        return own_map(logits.softmax(1), labels)


def own_map(maps: Tensor, labels: Tensor) -> Tensor:
    """The map of each region's class, or the only map: ``[R, maps, M, M]`` and ``[R]`` to ``[R, M, M]``."""
    if maps.shape[1] == 1:
        return maps[:, 0]
    return maps.gather(1, labels[:, None, None, None].expand(-1, 1, *maps.shape[2:]))[:, 0]


MASK_LOSSES: dict[str, MaskLoss] = {
    "sigmoid": Sigmoid(),
    "class_agnostic": ClassAgnostic(),
    "softmax": Softmax(),
}
