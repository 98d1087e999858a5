"""RoIAlign (He et al., Mask R-CNN, 2017): no rounding anywhere, bilinear samples, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch.fx
from torch import Tensor

from .functional import RoIModule, flag, pool_single_level
from .switches import ReductionOverrides, Switches, override

torch.fx.wrap("pool_single_level")  # torch.fx traces the function as one node


def _switches(sampling_ratio: int, aligned: bool, overrides: ReductionOverrides) -> Switches:
    aligned = flag("aligned", aligned)
    base = Switches(
        offset=0.5 if aligned else 0.0, min_width=None if aligned else 1, sampling_ratio=sampling_ratio
    )
    return override(base, overrides)


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    box_gradient: bool = False,
    **switches: Unpack[ReductionOverrides],
) -> Tensor:
    """RoIAlign, called like torchvision's.

    ``out[r, c, p, q]`` is the mean over n x n bilinear samples of bin (p, q). Along one axis, sample i lies at
    ``x1 s - h + (p + (i + 0.5) / n) w / P``. Here s is the spatial scale, h is 0.5 if aligned and 0 otherwise, and
    ``w = (x2 - x1) s``, at least 1 if not aligned.

    Args:
        input: [N, C, H, W], float64, float32, bfloat16 or float16, contiguous or channels-last.
        boxes: [K, 5] image index, x1, y1, x2, y2, or a list of one [k, 4] for each image; in pixels. In [K, 5] the
            index has the precision of the boxes: beyond 256 images (bfloat16) or 2048 (float16) use a list.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        sampling_ratio: n, at most 1024. If it is 0 or negative, n is ``ceil(w / P)``.
        aligned: shift boxes by half a cell, since cell c is centred at c + 0.5.
        box_gradient: compute gradients of the box coordinates.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as reduction="max".

    Returns:
        [K, C, P, P] in the dtype and layout of the input.

    Raises:
        TypeError, ValueError: if an argument has a wrong type, shape or range. Image indices are checked too.
    """
    chosen = _switches(sampling_ratio, aligned, switches)
    return pool_single_level(input, boxes, output_size, spatial_scale, chosen, box_gradient)


class RoIAlign(RoIModule):
    """Module form of :func:`roi_align`.

    Args:
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        sampling_ratio: n, at most 1024. If it is 0 or negative, n is ``ceil(w / P)``.
        aligned: shift boxes by half a cell, since cell c is centred at c + 0.5.
        box_gradient: compute gradients of the box coordinates.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as reduction="max".
    """

    settings = ("output_size", "spatial_scale", "sampling_ratio", "aligned")

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        *,
        box_gradient: bool = False,
        **switches: Unpack[ReductionOverrides],
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.box_gradient = box_gradient
        self.switches = _switches(sampling_ratio, aligned, switches)
        self.plain = _switches(sampling_ratio, aligned, {})

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool [N, C, H, W] to [K, C, P, P] at ``rois`` [K, 5], or at a list of [k, 4]."""
        return pool_single_level(
            input, rois, self.output_size, self.spatial_scale, self.switches, self.box_gradient
        )
