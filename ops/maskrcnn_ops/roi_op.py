"""RoI operators as objects: detectors take them, and configs name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .functional import check_features, check_positive, pool_regions
from .switches import Switches, preset


@dataclass(frozen=True, kw_only=True)
class RoIOp(Switches):
    """An RoI operator over a pyramid and a padded batch of boxes. The arguments are the switches.

    With several maps, a box of area A has the level
    ``k = floor(canonical_level + log2(sqrt(A) / canonical_size) + 1e-6)``.
    It pools from the coarsest map whose stride is at most 2 ** k, or from the finest map if all are coarser.
    Only the given maps limit k: with strides 4 to 64, a box of 900 px pools from stride 64. FPN stops at stride 32, so
    detectors leave out coarser maps (``maskrcnn.models.roi_pooling.RoIPooler``, ``max_stride``).
    """

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        """Pool every box from its level, in one call and without synchronising the device.

        Args:
            features: maps [N, C, H, W] by stride, at most 8; [N, C P P, H, W] for position-sensitive operators.
            boxes: [N, K, 4] x1, y1, x2, y2 in pixels of the network's input.
            valid: [N, K] bool. Boxes that are not valid are padding; their output is 0.
            output_size: P.

        Returns:
            [N * K, C, P, P] in the dtype and layout of the features, differentiable by the features.

        Raises:
            TypeError, ValueError: if an argument has a wrong type, shape or device.
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
        """Return the operator of that name in :data:`maskrcnn_ops.PRESETS`."""
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
