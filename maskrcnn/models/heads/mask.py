"""Mask head: segments the object of each region (Mask R-CNN, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from maskrcnn.errors import UserError
from maskrcnn.models.heads.trunks import initialise
from maskrcnn.models.losses import MASK_LOSSES
from maskrcnn.models.precision import full_precision
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
        # A tuple, so that the weights are registered in the box head only.
        self._shared: tuple[nn.Module, ...] = ()
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


def has_mask(masks: MaskBitmaps) -> Tensor:
    """Which objects have a mask to learn from: ``[N, G]`` bool."""
    return masks.size.prod(dim=-1) > 0


def mask_targets(masks: MaskBitmaps, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """Sample ground-truth masks at the centres of the M x M cells of each box.

    The centres are mapped into the bitmap of the original image, and its pixel there is read. Masks are never resized,
    so no detail is lost (Mask R-CNN, section 3: "the intersection between an RoI and its ground-truth mask").

    Args:
        masks: masks of the batch.
        boxes: ``[N, K, 4]`` in pixels of the network's input.
        matched: ``[N, K]`` int64, the object of each box.
        size: M.

    Returns:
        ``[N, K, M, M]`` float32, 0 or 1, indexed by row and column; 0 outside the bitmap.
    """
    own = torch.arange(len(matched), device=matched.device).unsqueeze(1), matched
    scale, shift = masks.to_bitmap[own].unsqueeze(-1).split(2, 2)  # [N, K, 2, 1]
    height, width = masks.size[own].unsqueeze(-1).unbind(dim=2)  # [N, K, 1]
    centres = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    corner, far = boxes.unsqueeze(-1).split(2, 2)  # [N, K, 2, 1]
    places = ((corner + centres * (far - corner)) * scale + shift).floor().long()  # [N, K, 2, M]
    x, y = places.unbind(dim=2)  # [N, K, M]
    inside = ((y >= 0) & (y < height)).unsqueeze(-1) & ((x >= 0) & (x < width)).unsqueeze(-2)  # [N, K, M, M]
    row = masks.offset[own].unsqueeze(-1) + y * width
    index = (row.unsqueeze(-1) + x.unsqueeze(-2)).mul_(inside)
    return masks.bits[index].float().mul_(inside)


def aligned_mask_targets(
    masks: MaskBitmaps,
    boxes: Tensor,
    matched: Tensor,
    size: int,
    canvas: tuple[int, int],
    sizes: Tensor | None = None,
) -> Tensor:
    """Compute torchvision's mask targets, for comparison with it.

    Masks are resized to the input by nearest neighbour and then pooled. This takes memory for one full-size mask per
    object and loses detail, so it is not the default.

    Args:
        masks: see `mask_targets`.
        boxes: see `mask_targets`.
        matched: see `mask_targets`.
        size: M.
        canvas: (H, W) of the network's input.
        sizes: ``[N, 2]`` (height, width) of each image in the canvas. Beyond it, the last row and column are repeated.
            None is the whole canvas.

    Returns:
        ``[N, K, M, M]`` float32 in 0..1.
    """
    num_images, num_objects = masks.offset.shape
    sizes = boxes.new_tensor(canvas).expand(num_images, 2) if sizes is None else sizes
    pixels = [torch.arange(side, device=boxes.device, dtype=torch.float32) for side in canvas]
    y, x = (
        _nearest(
            torch.minimum(pixels[axis], sizes[:, axis, None] - 1).unsqueeze(1),
            masks.to_bitmap[..., 1 - axis],
            masks.to_bitmap[..., 3 - axis],
        )
        for axis in (0, 1)
    )
    height, width = (side.unsqueeze(-1) for side in masks.size.unbind(-1))
    inside = ((y >= 0) & (y < height)).unsqueeze(-1) & ((x >= 0) & (x < width)).unsqueeze(-2)  # [N, G, H, W]
    index = masks.offset[..., None, None] + y.unsqueeze(-1) * width.unsqueeze(-1) + x.unsqueeze(-2)
    full = (masks.bits[torch.where(inside, index, 0)] * inside).flatten(0, 1).unsqueeze(1)  # [N * G, 1, H, W]
    which = matched + num_objects * torch.arange(num_images, device=boxes.device).unsqueeze(1)
    regions = torch.cat([which.reshape(-1, 1).to(boxes.dtype), boxes.reshape(-1, 4)], dim=1)
    pooled: Tensor = roi_align(full.to(boxes.dtype), regions, (size, size), 1.0)
    return pooled.reshape(*matched.shape, size, size).float()


def _nearest(pixels: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Indices ``[N, G, side]`` of the rows or columns that torch's "nearest" resizing reads.

    Args:
        pixels: ``[N, 1, side]``.
        scale: of `MaskBitmaps.to_bitmap`.
        shift: of `MaskBitmaps.to_bitmap`.

    It reads the low edge of a pixel. In a mirrored image, this is the high edge in the bitmap. The product is in
    float32 like torch's, because rounding decides the pixel where the product is nearly an integer.
    """
    places = (pixels * scale.float().unsqueeze(-1)).double() + shift.double().unsqueeze(-1)
    return torch.where(scale.unsqueeze(-1) < 0, places.ceil() - 1, places.floor()).long()
