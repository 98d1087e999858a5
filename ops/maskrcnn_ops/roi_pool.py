"""RoIPool (Girshick, Fast R-CNN, 2015): box and bins rounded to whole cells, the maximum of each bin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch.fx
from torch import Tensor

from .functional import RoIModule, pool_single_level
from .switches import SwitchOverrides, override, preset

torch.fx.wrap("pool_single_level")  # a leaf of what torch.fx traces


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    **switches: Unpack[SwitchOverrides],
) -> Tensor:
    """RoIPool, called as torchvision's.

    ``out[r, c, p, q]`` is the maximum over the cells of bin (p, q), 0 for an empty bin; along one axis, with
    ``X = round(x s)`` and ``w = max(X2 - X1 + 1, 1)``, bin p covers cells
    ``X1 + floor(p (w / P)) .. X1 + ceil((p + 1) (w / P)) - 1`` that lie on the map.

    Args:
        input: [N, C, H, W], float64, float32, bfloat16 or float16, contiguous or channels-last.
        boxes: [K, 5] image index, x1, y1, x2, y2, or a list of one [k, 4] for each image; in pixels. In [K, 5] the
            index has the boxes' precision: beyond 256 images (bfloat16) or 2048 (float16) only a list is exact.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        switches: any of :class:`maskrcnn_ops.Switches`, such as reduction="avg".

    Returns:
        [K, C, P, P] in the dtype and layout of the input; every gradient goes to the winning cell alone.

    Raises:
        TypeError, ValueError: for arguments of a wrong type, shape or range, an image index among them.
    """
    return pool_single_level(input, boxes, output_size, spatial_scale, override(preset("pool"), switches))


class RoIPool(RoIModule):
    """Module form of :func:`roi_pool`; arguments as there."""

    settings = ("output_size", "spatial_scale")

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float, **switches: Unpack[SwitchOverrides]
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.switches = override(preset("pool"), switches)
        self.plain = preset("pool")

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """[N, C, H, W] and boxes -> [K, C, P, P]."""
        return pool_single_level(input, rois, self.output_size, self.spatial_scale, self.switches)
