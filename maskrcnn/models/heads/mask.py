"""Mask head: which cells of a region belong to its object? (Mask R-CNN, section 3)"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.losses import binary, full_precision, multiclass
from maskrcnn.models.mask_targets import aligned_mask_targets, has_mask, mask_targets
from maskrcnn.models.norms import LayerNorm, batch_norm_of, normalised
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Images, Loss, MaskBitmaps, Samples, Targets, pick

MaskLoss = Literal["sigmoid", "class_agnostic", "softmax"]
MaskTargets = Literal["exact", "bitmap_align"]


class ConvTrunk(nn.Module):
    """``num_convs`` 3x3 convolutions with ReLU: ``[R, C, P, P]`` to ``[R, dim, P, P]``.

    norm: after each convolution, None is none; norm_eps: what it adds to the variance. Of batch norm, empty regions
    (all zero, as a pooler leaves what is not valid) are no part.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int = 256,
        num_convs: int = 4,
        norm: LayerNorm | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        sizes = [in_channels] + [dim] * num_convs
        convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)]
        for conv in convs:
            _initialise(conv)
        if norm == "sync_bn":
            raise UserError("norm=sync_bn would count empty regions; a trunk's norm is bn, frozen_bn or gn")
        self.convs = nn.ModuleList(normalised(conv, norm, norm_eps) for conv in convs)
        self.has_batch_norm = norm == "bn"
        self.out_channels = sizes[-1]

    def forward(self, pooled: Tensor) -> Tensor:
        """``[R, C, P, P]`` to ``[R, dim, P, P]``."""
        used = pooled.detach().flatten(1).any(1) if self.has_batch_norm and self.training else None
        for conv in self.convs:
            pooled = F.relu(conv(pooled) if used is None else _of_used(conv, pooled, used), inplace=True)
        return pooled


def _of_used(layer: nn.Module, pooled: Tensor, used: Tensor) -> Tensor:
    """A convolution and its batch norm, which sees the regions ``used`` ``[R]`` alone."""
    conv, norm = layer.children()
    assert isinstance(norm, nn.BatchNorm2d)
    return batch_norm_of(norm, conv(pooled), used)


class FCNPredictor(nn.Module):
    """A transposed convolution that doubles the resolution, then a map per class."""

    def __init__(self, in_channels: int, num_maps: int, dim: int = 256) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, dim, 2, stride=2)
        self.logits = nn.Conv2d(dim, num_maps, 1)
        for layer in (self.upsample, self.logits):
            _initialise(layer)

    def forward(self, regions: Tensor) -> Tensor:
        """``[R, C, P, P]`` to logits ``[R, num_maps, 2P, 2P]``."""
        logits: Tensor = self.logits(F.relu(self.upsample(regions), inplace=True))
        return logits


class MLPPredictor(nn.Module):
    """Fully connected layers instead (paper, Table 2e): ``[R, num_maps, mask_size, mask_size]``.

    num_layers: hidden ones of ``dim`` units; 2 is the table's first row, 3 its second.
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
        """``[R, C, P, P]`` to logits ``[R, num_maps, mask_size, mask_size]``."""
        x = regions.flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x), inplace=True)
        logits: Tensor = self.logits(x)
        return logits.reshape(-1, *self.shape)


class MaskHead(nn.Module):
    """Predicts the masks of regions, and learns from the positives.

    pooler: features and boxes to regions ``[R, C, P, P]``. trunk: ``[R, C, P, P]`` to ``[R, C', P', P']``; None
    means the box head's, with its weights (C4, where res5 serves both).
    predictor: called with ``num_maps``, gives a module ``[R, C', P', P']`` to ``[R, num_maps, M, M]``.
    loss: ``sigmoid`` (a mask per class, no competition between classes: the paper's), ``class_agnostic`` (one mask),
    ``softmax`` (classes and background compete for every cell: paper, Table 2b).
    mask_targets: ``exact`` reads the original mask at the centres of the M x M cells; ``bitmap_align`` resizes it to
    the network's input first and pools that (torchvision's; takes memory for a mask of full size per object).
    background_map: predict a map for background too, which nothing uses (torchvision's layer has it).
    """

    def __init__(
        self,
        pooler: RoIPooler,
        trunk: nn.Module | None,
        predictor: Callable[..., nn.Module],
        num_classes: int,
        loss: MaskLoss = "sigmoid",
        mask_targets: MaskTargets = "exact",
        background_map: bool = False,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.trunk = trunk
        self.loss, self.mask_targets = loss, mask_targets
        self.num_classes = num_classes
        if background_map and loss != "sigmoid":
            raise UserError(f"background_map belongs to loss=sigmoid, not to loss={loss}; set it to false")
        num_maps = {"sigmoid": num_classes, "class_agnostic": 1, "softmax": num_classes + 1}[loss]
        self.predictor = predictor(num_maps=num_maps + background_map)

    def losses(
        self,
        regions: Tensor,
        positives: Samples,
        targets: Targets,
        images: Images | None = None,
        rows: Tensor | None = None,
    ) -> dict[str, Loss]:
        """``mask``: cross entropy averaged over the cells of a region, summed over positives (of objects with a mask).

        regions: ``[N * K, C', P', P']``, the trunk's output for the K boxes of ``positives``. images: their sizes are
        what ``mask_targets=bitmap_align`` needs. rows: ``[R]``, which of the N * K the regions are, all positives among
        them; None is all.
        """
        if targets.masks is None:
            raise ValueError("the mask head needs masks, but the targets have none")
        logits = self.predictor(regions)
        side = logits.shape[-1]
        with torch.no_grad():
            wanted = self._targets(targets.masks, positives, side, images).flatten(0, 1)
            with_mask = has_mask(targets.masks).gather(1, positives.matched)
        chosen = (positives.positive & with_mask).flatten()
        labels = torch.where(chosen, positives.labels.flatten(), 0)
        wanted, chosen, labels = (pick(values, rows) for values in (wanted, chosen, labels))
        total, count = self._cross_entropy(logits, wanted, labels, chosen)
        return {"mask": Loss(total / side**2, count)}

    def _targets(self, masks: MaskBitmaps, positives: Samples, side: int, images: Images | None) -> Tensor:
        """``[N, K, M, M]`` in 0..1, M being ``side``."""
        if self.mask_targets == "exact":
            return mask_targets(masks, positives.boxes, positives.matched, side)
        if images is None:
            raise ValueError("mask_targets=bitmap_align needs the images")
        canvas = (images.pixels.shape[-2], images.pixels.shape[-1])
        return aligned_mask_targets(masks, positives.boxes, positives.matched, side, canvas, images.sizes)

    def _cross_entropy(self, logits: Tensor, wanted: Tensor, labels: Tensor, chosen: Tensor) -> Loss:
        """Logits ``[R, maps, M, M]`` against masks ``[R, M, M]`` of classes ``labels`` ``[R]``, where ``chosen``."""
        count, chosen = chosen.sum(), chosen[:, None, None]
        if self.loss == "softmax":
            background = logits.shape[1] - 1
            return multiclass(
                logits, torch.where(wanted > 0.5, labels[:, None, None], background), chosen, count
            )
        return binary(_own_map(logits, labels), wanted, chosen, count)

    def detect(self, regions: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities ``[R, M, M]`` of regions ``[R, C', P', P']`` of the classes ``labels`` ``[R]``."""
        logits = full_precision(self.predictor(regions))
        scores = logits.softmax(1) if self.loss == "softmax" else logits.sigmoid()
        return _own_map(scores, labels)


def _own_map(maps: Tensor, labels: Tensor) -> Tensor:
    """The map of each region's class: ``[R, maps, M, M]`` and ``[R]`` to ``[R, M, M]``."""
    if maps.shape[1] == 1:
        return maps[:, 0]
    return maps.gather(1, labels[:, None, None, None].expand(-1, 1, *maps.shape[2:]))[:, 0]


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
