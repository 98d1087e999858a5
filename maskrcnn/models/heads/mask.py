"""Mask head: segments the object of each region (Mask R-CNN, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.heads.mask_losses import MASK_LOSSES
from maskrcnn.models.heads.trunks import initialise
from maskrcnn.models.losses import full_precision
from maskrcnn.models.mask_targets import aligned_mask_targets, has_mask, mask_targets
from maskrcnn.models.protocols import MaskLoss
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Detections, Images, Loss, MaskBitmaps, Samples, Targets

MaskLossName = Literal["sigmoid", "class_agnostic", "softmax"]
MaskTargets = Literal["exact", "bitmap_align"]


class FCNPredictor(nn.Module):
    """A transposed convolution that doubles the resolution, then a 1x1 convolution to the maps.

    Args:
        in_channels: number of channels of the regions.
        num_maps: number of mask maps, see `MaskLoss.num_maps`.
        dim: number of channels in between.
    """

    def __init__(self, in_channels: int, num_maps: int, dim: int = 256) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, dim, 2, stride=2)
        self.logits = nn.Conv2d(dim, num_maps, 1)
        for layer in (self.upsample, self.logits):
            initialise(layer)

    def forward(self, regions: Tensor) -> Tensor:
        """Predict logits: ``[R, C, P, P]`` to ``[R, num_maps, 2P, 2P]``."""
        logits: Tensor = self.logits(F.relu(self.upsample(regions), inplace=True))
        return logits


class MLPPredictor(nn.Module):
    """Fully connected layers instead of convolutions (paper, Table 2e).

    Args:
        in_channels: number of channels of the regions.
        pooled_size: P, side of the regions.
        num_maps: number of mask maps, see `MaskLoss.num_maps`.
        dim: units of each hidden layer.
        num_layers: number of hidden layers: 2 in the first row of the table, 3 in the second.
        mask_size: side of the masks.
    """

    def __init__(
        self,
        in_channels: int,
        pooled_size: int,
        num_maps: int,
        dim: int = 1024,
        num_layers: int = 2,
        mask_size: int = 28,
    ) -> None:
        super().__init__()
        sizes = [in_channels * pooled_size**2] + [dim] * num_layers
        hidden = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.logits = nn.Linear(dim, num_maps * mask_size**2)
        self.shape = (num_maps, mask_size, mask_size)
        for layer in (*hidden, self.logits):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(hidden)

    def forward(self, regions: Tensor) -> Tensor:
        """Predict logits: ``[R, C, P, P]`` to ``[R, num_maps, mask_size, mask_size]``."""
        x = regions.flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x), inplace=True)
        logits: Tensor = self.logits(x)
        return logits.reshape(-1, *self.shape)


class MaskHead(nn.Module):
    """Predicts the mask of each region's object. Positive regions are trained on.

    Args:
        pooler: pools the features of boxes to regions ``[R, C, P, P]``.
        trunk: regions to ``[R, C', P', P']``. None uses the box head's trunk with its weights, as in C4, where res5
            serves both heads; `MaskRCNN` sets it.
        predictor: called with ``num_maps``, returns a module that maps ``[R, C', P', P']`` to ``[R, num_maps, M, M]``.
        num_classes: number of classes without background.
        loss: ``sigmoid`` (the paper's), ``class_agnostic``, ``softmax``, or your own `MaskLoss`.
        mask_targets: ``exact`` samples the original mask at the centres of the M x M cells. ``bitmap_align`` is
            torchvision's method: it resizes the mask to the network's input and pools it.
        background_map: also predict a map for background, which is not used (torchvision's layer has it).
    """

    def __init__(
        self,
        pooler: RoIPooler,
        trunk: nn.Module | None,
        predictor: Callable[..., nn.Module],
        num_classes: int,
        loss: MaskLossName | MaskLoss = "sigmoid",
        mask_targets: MaskTargets = "exact",
        background_map: bool = False,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.trunk = trunk
        self._shared: tuple[
            nn.Module, ...
        ] = ()  # a tuple, so that the weights are registered in the box head only
        self.loss: MaskLoss = MASK_LOSSES[loss] if isinstance(loss, str) else loss
        self.mask_targets = mask_targets
        self.num_classes = num_classes
        if background_map and loss != "sigmoid":
            raise UserError(f"background_map belongs to loss=sigmoid, not to loss={loss}; set it to false")
        self.predictor = predictor(num_maps=self.loss.num_maps(num_classes) + background_map)

    def share_trunk(self, trunk: nn.Module) -> None:
        """Use the box head's ``trunk``. `MaskRCNN` calls this if the head has no trunk of its own."""
        self._shared = (trunk,)

    def losses(
        self, features: dict[int, Tensor], samples: Samples, targets: Targets, images: Images
    ) -> dict[str, Loss]:
        """Compute ``mask``: the loss averaged over the cells of a region, summed over positive regions.

        Regions whose object has no mask do not count.

        Args:
            features: maps by stride.
            samples: regions to train on, ``[N, K]``.
            targets: ground truth of the batch.
            images: the batch.
        """
        if targets.masks is None:
            raise ValueError("the mask head needs masks, but the targets have none")
        positives = samples.positives()
        regions = self.pooler.regions(features, positives.boxes, positives.valid)
        logits = self.predictor(self._trunk(regions.pooled))
        side = logits.shape[-1]
        with torch.no_grad():
            masks = self._targets(targets.masks, positives, side, images)
            chosen = positives.positive & has_mask(targets.masks).gather(1, positives.matched)
        labels = torch.where(chosen, positives.labels, 0)
        masks, labels, picked = (regions.pick(values) for values in (masks, labels, chosen))
        return {"mask": Loss(self.loss(logits, masks, labels, picked) / side**2, chosen.sum())}

    def detect(self, features: dict[int, Tensor], regions: Detections, images: Images) -> Detections:
        """Add masks ``[N, D, M, M]`` to detections, as probabilities within the box.

        Args:
            features: maps by stride.
            regions: detections ``[N, D]``.
            images: the batch.
        """
        return replace(regions, masks=self.masks(features, regions.boxes, regions.labels, regions.valid))

    def masks(self, features: dict[int, Tensor], boxes: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Predict masks within boxes.

        Args:
            features: maps by stride.
            boxes: ``[N, K, 4]`` in pixels of the network's input.
            labels: ``[N, K]`` int64, the class of each box.
            valid: ``[N, K]`` bool.

        Returns:
            Probabilities ``[N, K, M, M]``.
        """
        regions = self.pooler.regions(features, boxes, valid)
        logits = full_precision(self.predictor(self._trunk(regions.pooled)))
        return regions.spread(self.loss.probabilities(logits, regions.pick(labels)))

    def _trunk(self, pooled: Tensor) -> Tensor:
        trunk = self._shared[0] if self.trunk is None else self.trunk
        regions: Tensor = trunk(pooled)
        return regions

    def _targets(self, masks: MaskBitmaps, positives: Samples, side: int, images: Images) -> Tensor:
        """Mask targets ``[N, K, M, M]`` in 0..1, where M is ``side``."""
        if self.mask_targets == "exact":
            return mask_targets(masks, positives.boxes, positives.matched, side)
        canvas = (images.pixels.shape[-2], images.pixels.shape[-1])
        return aligned_mask_targets(masks, positives.boxes, positives.matched, side, canvas, images.sizes)
