"""A mask loss: Dice (Milletari et al., 2016) on one map per class."""

from __future__ import annotations

import torch
from torch import Tensor


class Dice:
    """One minus the overlap ``2 |p m| / (|p|^2 + |m|^2)`` of prediction and mask, for each region."""

    def num_maps(self, num_classes: int) -> int:
        """Number of maps of the predictor: one per class."""
        return num_classes

    def __call__(self, logits: Tensor, masks: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Sum over the chosen regions: logits ``[R, K, M, M]``, masks ``[R, M, M]``, labels and chosen ``[R]``."""
        p = self.probabilities(logits, labels)
        overlap = 2 * (p * masks).sum((1, 2)) / (p.square() + masks.square()).sum((1, 2)).clamp(min=1e-6)
        cells = masks[0].numel()  # the detector divides the loss by the number of cells
        return ((1 - overlap) * chosen).sum() * cells

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mask of each region: the sigmoid of its class's map."""
        return logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()
