"""RoIWarp (Dai et al., Multi-task Network Cascades, 2016), in the forms of its three sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch.fx
from torch import Tensor

from .functional import RoIModule, pool_single_level
from .switches import GeometryOverrides, Reduction, Switches, override
from .switches import preset as named

WarpPreset = Literal["warp", "warp_mnc", "warp_continuous"]

torch.fx.wrap("pool_single_level")  # torch.fx traces the function as one node


def _switches(
    preset: WarpPreset, sampling_ratio: int | None, reduction: Reduction | None, overrides: GeometryOverrides
) -> Switches:
    if preset not in ("warp", "warp_mnc", "warp_continuous"):
        raise ValueError(f"preset: expected 'warp', 'warp_mnc' or 'warp_continuous', found {preset!r}")
    chosen = named(preset)
    if sampling_ratio is None:
        sampling_ratio = chosen.sampling_ratio if preset == "warp_mnc" else -1
    given = {"sampling_ratio": sampling_ratio, "reduction": reduction or chosen.reduction}
    return override(override(chosen, given), overrides)


def roi_warp(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int | None = None,
    reduction: Reduction | None = None,
    *,
    preset: WarpPreset = "warp",
    box_gradient: bool = False,
    **switches: Unpack[GeometryOverrides],
) -> Tensor:
    """RoIWarp: the box is rounded as by RoIPool, its bins are sampled bilinearly as by RoIAlign.

    With ``X = round(x s)`` and ``w = max(X2 - X1 + 1, 1)``, sample i of n in bin p lies at
    ``X1 + (p + (i + 0.5) / n) w / P``.

    Args:
        input: [N, C, H, W], float64, float32, bfloat16 or float16, contiguous or channels-last.
        boxes: [K, 5] image index, x1, y1, x2, y2, or a list of one [k, 4] for each image; in pixels. In [K, 5] the
            index has the precision of the boxes: beyond 256 images (bfloat16) or 2048 (float16) use a list.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        sampling_ratio: n, at most 1024. If it is 0 or negative, n is ``ceil(w / P)``. None is 2 for "warp_mnc" and -1
            for the others.
        reduction: "avg" or "max". None is "max" for "warp_mnc" and "avg" for the others.
        preset: the source. "warp" is Table 2c of Mask R-CNN. "warp_mnc" is the released MNC: width X2 - X1, the
            top-left corners of a 2P x 2P grid, 2 x 2 maximum. "warp_continuous" is MNC's formula without rounding.
        box_gradient: compute gradients of the box coordinates, with rounding treated as identity.
        switches: any switch of :class:`maskrcnn_ops.Switches`.

    Returns:
        [K, C, P, P] in the dtype and layout of the input.

    Raises:
        TypeError, ValueError: if an argument has a wrong type, shape or range. Image indices are checked too.
    """
    chosen = _switches(preset, sampling_ratio, reduction, switches)
    return pool_single_level(input, boxes, output_size, spatial_scale, chosen, box_gradient)


class RoIWarp(RoIModule):
    """Module form of :func:`roi_warp`.

    Args:
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        sampling_ratio: n, see :func:`roi_warp`.
        reduction: "avg" or "max", see :func:`roi_warp`.
        preset: the source, see :func:`roi_warp`.
        box_gradient: compute gradients of the box coordinates, with rounding treated as identity.
        switches: any switch of :class:`maskrcnn_ops.Switches`.
    """

    settings = ("output_size", "spatial_scale", "preset")

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int | None = None,
        reduction: Reduction | None = None,
        *,
        preset: WarpPreset = "warp",
        box_gradient: bool = False,
        **switches: Unpack[GeometryOverrides],
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.preset = preset
        self.box_gradient = box_gradient
        self.switches = _switches(preset, sampling_ratio, reduction, switches)
        self.plain = _switches(preset, None, None, {})

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool [N, C, H, W] to [K, C, P, P] at ``rois`` [K, 5], or at a list of [k, 4]."""
        return pool_single_level(
            input, rois, self.output_size, self.spatial_scale, self.switches, self.box_gradient
        )
