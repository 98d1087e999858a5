"""RoIPool (Girshick, Fast R-CNN, 2015): box and bins rounded to whole cells, the maximum of each bin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch.fx
from torch import Tensor

from .functional import RoIModule, pool_single_level
from .switches import SwitchOverrides, override, preset

torch.fx.wrap("pool_single_level")  # torch.fx traces the function as one node


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    **switches: Unpack[SwitchOverrides],
) -> Tensor:
    """RoIPool, called like torchvision's.

    ``out[r, c, p, q]`` is the maximum over the cells of bin (p, q), or 0 for an empty bin. Along one axis, with
    ``X = round(x s)`` and ``w = max(X2 - X1 + 1, 1)``, bin p covers the cells
    ``X1 + floor(p (w / P)) .. X1 + ceil((p + 1) (w / P)) - 1`` that lie on the map.

    Args:
        input: [N, C, H, W], float64, float32, bfloat16 or float16, contiguous or channels-last.
        boxes: [K, 5] image index, x1, y1, x2, y2, or a list of one [k, 4] for each image; in pixels. In [K, 5] the
            index has the precision of the boxes: beyond 256 images (bfloat16) or 2048 (float16) use a list.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as reduction="avg".

    Returns:
        [K, C, P, P] in the dtype and layout of the input. Every gradient goes to the winning cell alone.

    Raises:
        TypeError, ValueError: if an argument has a wrong type, shape or range. Image indices are checked too.
    """
    return pool_single_level(input, boxes, output_size, spatial_scale, override(preset("pool"), switches))


class RoIPool(RoIModule):
    """Module form of :func:`roi_pool`.

    Args:
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as reduction="avg".
    """

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
        """Pool [N, C, H, W] to [K, C, P, P] at ``rois`` [K, 5], or at a list of [k, 4]."""
        return pool_single_level(input, rois, self.output_size, self.spatial_scale, self.switches)
