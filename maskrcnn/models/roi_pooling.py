"""Features + regions -> ``[N * K, C, P, P]``. The operator is handed in: nothing here knows which one it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.models.protocols import RoIOp
from maskrcnn.structures import pick, spread, used_rows


class Regions(NamedTuple):
    """Pooled boxes. On a CPU those of unused slots are left out; elsewhere all N * K slots stay.

    Attributes:
        pooled: ``[R, C, P, P]``.
        rows: ``[R]`` int64, the slots among N * K that they are; None means all.
        shape: (N, K).
    """

    pooled: Tensor
    rows: Tensor | None
    shape: torch.Size

    def pick(self, values: Tensor) -> Tensor:
        """Values ``[N, K, ...]`` of slots to those of the regions, ``[R, ...]``."""
        return pick(values.flatten(0, 1), self.rows)

    def spread(self, found: Tensor) -> Tensor:
        """The way back: ``[R, ...]`` to ``[N, K, ...]``, zero in slots left out."""
        return spread(found, self.rows, self.shape)


class RoIPooler(nn.Module):
    """Applies a RoI operator at one output size, on the maps that the heads use.

    Args:
        operator: see `RoIOp`.
        output_size: P.
        max_stride: coarser maps are the RPN's alone (FPN's P6).
    """

    def __init__(self, operator: RoIOp, output_size: int, max_stride: int = 32) -> None:
        super().__init__()
        self.operator = operator
        self.output_size = output_size
        self.max_stride = max_stride

    def forward(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Maps by stride, boxes ``[N, K, 4]``, valid ``[N, K]`` to ``[N * K, C, P, P]``."""
        used = {stride: feature for stride, feature in features.items() if stride <= self.max_stride}
        return self.operator(used, boxes, valid, self.output_size)

    def regions(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> Regions:
        """The same, as `Regions`: what a head's networks run on."""
        rows = used_rows(valid)
        return Regions(pick(self(features, boxes, valid), rows), rows, valid.shape)
