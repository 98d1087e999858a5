"""Features + regions -> ``[N * K, C, P, P]``. The operator is handed in: nothing here knows which one it is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class RoIOp(Protocol):
    """What a RoI operator must do; ``maskrcnn_ops.RoIOp`` is the family that comes with the project."""

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        """Maps ``[N, C, H, W]`` by stride and boxes ``[N, K, 4]`` (pixels of the network's input) to
        ``[N * K, C, P, P]``; zeros where ``valid`` ``[N, K]`` is false."""
        ...


class RoIPooler(nn.Module):
    """Applies a RoI operator at one output size, on the maps that the heads use.

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
