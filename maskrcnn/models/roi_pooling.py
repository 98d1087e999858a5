"""Pools the features of regions to ``[N * K, C, P, P]``, with any RoI operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.models.protocols import RoIOp
from maskrcnn.structures import pick, spread, used_rows


class Regions(NamedTuple):
    """Pooled boxes. On a CPU, padding is left out; elsewhere all N * K entries stay.

    Attributes:
        pooled: ``[R, C, P, P]``.
        rows: ``[R]`` int64, their flat indices among N * K; None means all.
        shape: (N, K).
    """

    pooled: Tensor
    rows: Tensor | None
    shape: torch.Size

    def pick(self, values: Tensor) -> Tensor:
        """Select the regions' rows of ``values`` ``[N, K, ...]``, giving ``[R, ...]``."""
        return pick(values.flatten(0, 1), self.rows)

    def spread(self, found: Tensor) -> Tensor:
        """Invert `pick`: ``[R, ...]`` to ``[N, K, ...]``, zero in entries that were left out."""
        return spread(found, self.rows, self.shape)


class RoIPooler(nn.Module):
    """Applies a RoI operator with a fixed output size.

    Args:
        operator: see `RoIOp`.
        output_size: P, bins per side.
        max_stride: coarser maps are not pooled; only the RPN uses them (FPN's P6).
    """

    def __init__(self, operator: RoIOp, output_size: int, max_stride: int = 32) -> None:
        super().__init__()
        self.operator = operator
        self.output_size = output_size
        self.max_stride = max_stride

    def forward(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Pool every box.

        Args:
            features: maps ``[N, C, H, W]`` by stride.
            boxes: ``[N, K, 4]`` in pixels of the network's input.
            valid: ``[N, K]`` bool.

        Returns:
            ``[N * K, C, P, P]``.
        """
        return self.operator(self.pooled_strides(features), boxes, valid, self.output_size)

    def pooled_strides(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """Select the maps of strides up to ``max_stride``."""
        return {stride: feature for stride, feature in features.items() if stride <= self.max_stride}

    def regions(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> Regions:
        """Pool like `forward`, without the padding on a CPU.

        Args:
            features: maps ``[N, C, H, W]`` by stride.
            boxes: ``[N, K, 4]`` in pixels of the network's input.
            valid: ``[N, K]`` bool.
        """
        rows = used_rows(valid)
        return Regions(pick(self(features, boxes, valid), rows), rows, valid.shape)
