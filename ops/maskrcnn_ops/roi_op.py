"""The family of RoI operators as one object: what a detector is handed, and what a config names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .functional import check_features, check_positive, pool_regions
from .switches import Switches, preset


@dataclass(frozen=True, kw_only=True)
class RoIOp(Switches):
    """An RoI operator over a whole pyramid and a padded batch of boxes; the arguments are the switches.

    With several maps a box of area A has the level
    ``k = floor(canonical_level + log2(sqrt(A) / canonical_size) + 1e-6)`` and pools from the coarsest map whose stride
    is at most 2 ** k, or from the finest where all are coarser. Only the maps handed in bound k, not FPN's levels 2 to
    5: given strides 4 to 64, a box of 900 px pools from stride 64. In a detector that map is the RPN's alone, and
    ``maskrcnn.models.roi_pooling.RoIPooler`` holds back what is coarser than its ``max_stride`` of 32.
    """

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        """Pools every box from its level, in one call and without a stall of the device.

        Args:
            features: [N, C, H, W] by stride, at most 8 maps.
            boxes: [N, K, 4] x1, y1, x2, y2 in pixels of the network's input.
            valid: [N, K] bool; the output of other boxes is 0.
            output_size: P.

        Returns:
            [N * K, C, P, P] in the dtype and layout of the features; differentiable by the features.

        Raises:
            TypeError, ValueError: for arguments of a wrong type or shape, or on several devices.
        """
        _check_batch(features, boxes, valid)
        strides = sorted(features)
        maps = [features[stride] for stride in strides]
        image = torch.arange(len(boxes), device=boxes.device)[:, None]
        image = torch.where(valid, image, -1).flatten()  # [N * K]
        scales = [1.0 / stride for stride in strides]
        return pool_regions(maps, boxes.flatten(0, 1), image, output_size, scales, self)

    @classmethod
    def preset(cls, name: str) -> RoIOp:
        """The operator called align, align_legacy, pool, warp, warp_mnc or warp_continuous."""
        return cls(**asdict(preset(name)))


def _check_batch(features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> None:
    if not isinstance(features, Mapping):
        raise TypeError(f"features: expected a dict of maps by stride, found {type(features).__name__}")
    if not features:
        raise ValueError("features: expected a map for at least one stride, found none")
    for stride in features:
        check_positive("features: a stride as key", stride)
    maps = list(features.values())
    check_features(maps)
    images = maps[0].shape[0]
    if not isinstance(boxes, Tensor):
        raise TypeError(f"boxes: expected Tensor [{images}, K, 4], found {type(boxes).__name__}")
    if boxes.dim() != 3 or boxes.shape[2] != 4 or boxes.shape[0] != images:
        raise ValueError(f"boxes: expected [{images}, K, 4], found {list(boxes.shape)}")
    if not isinstance(valid, Tensor):
        raise TypeError(
            f"valid: expected bool {list(boxes.shape[:2])}, found {type(valid).__name__}; "
            "torch.ones(N, K, dtype=torch.bool) counts every box"
        )
    if valid.dtype != torch.bool or valid.shape != boxes.shape[:2]:
        raise ValueError(
            f"valid: expected bool {list(boxes.shape[:2])}, found {valid.dtype} {list(valid.shape)}"
        )
    if valid.device != boxes.device:
        raise ValueError(f"valid: expected on {boxes.device} like the boxes, found on {valid.device}")
