"""RoIAlign, RoIPool and RoIWarp on one map, called like torchvision's operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from . import functional
from .functional import RoIModule, flag
from .switches import GeometryOverrides, Reduction, ReductionOverrides, Switches, SwitchOverrides, override
from .switches import preset as named

WarpPreset = Literal["warp", "warp_mnc", "warp_continuous"]


def _aligned(sampling_ratio: int, aligned: bool, overrides: ReductionOverrides) -> Switches:
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
    chosen = _aligned(sampling_ratio, aligned, switches)
    return functional.pool_single_level(input, boxes, output_size, spatial_scale, chosen, box_gradient)


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
        chosen, plain = _aligned(sampling_ratio, aligned, switches), _aligned(sampling_ratio, aligned, {})
        super().__init__(output_size, spatial_scale, chosen, plain, box_gradient)
        self.sampling_ratio, self.aligned = sampling_ratio, aligned


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
    chosen = override(named("pool"), switches)
    return functional.pool_single_level(input, boxes, output_size, spatial_scale, chosen)


class RoIPool(RoIModule):
    """Module form of :func:`roi_pool`.

    Args:
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as reduction="avg".
    """

    def __init__(
        self, output_size: int | Sequence[int], spatial_scale: float, **switches: Unpack[SwitchOverrides]
    ) -> None:
        super().__init__(output_size, spatial_scale, override(named("pool"), switches), named("pool"))


def _warped(
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
    chosen = _warped(preset, sampling_ratio, reduction, switches)
    return functional.pool_single_level(input, boxes, output_size, spatial_scale, chosen, box_gradient)


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
        chosen, plain = _warped(preset, sampling_ratio, reduction, switches), _warped(preset, None, None, {})
        super().__init__(output_size, spatial_scale, chosen, plain, box_gradient)
        self.preset = preset
