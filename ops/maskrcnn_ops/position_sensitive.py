"""Position-sensitive RoI operators (Dai et al., R-FCN, 2016): every bin reads its own channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from . import functional
from .functional import RoIModule
from .switches import GeometryOverrides, Switches, SwitchOverrides, override
from .switches import preset as named

PoolPreset = Literal["ps_pool", "ps_pool_rfcn"]


def _sampled(name: str, sampling_ratio: int, overrides: GeometryOverrides) -> Switches:
    return override(override(named(name), {"sampling_ratio": sampling_ratio}), overrides)


def _pooled(preset: PoolPreset, overrides: SwitchOverrides) -> Switches:
    if preset not in ("ps_pool", "ps_pool_rfcn"):
        raise ValueError(f"preset: expected 'ps_pool' or 'ps_pool_rfcn', found {preset!r}")
    return override(named(preset), overrides)


def ps_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    box_gradient: bool = False,
    **switches: Unpack[GeometryOverrides],
) -> Tensor:
    """Position-sensitive RoIAlign, called like torchvision's.

    ``out[r, c, p, q]`` is the mean over n x n bilinear samples of bin (p, q) in channel ``(c P + p) P + q`` of the
    input. The samples lie where :func:`roi_align` with ``aligned=True`` has them.

    Args:
        input: [N, C P P, H, W], float64, float32, bfloat16 or float16, contiguous or channels-last.
        boxes: [K, 5] image index, x1, y1, x2, y2, or a list of one [k, 4] for each image; in pixels. In [K, 5] the
            index has the precision of the boxes: beyond 256 images (bfloat16) or 2048 (float16) use a list.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        sampling_ratio: n, at most 1024. If it is 0 or negative, n is ``ceil(w / P)``.
        box_gradient: compute gradients of the box coordinates.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as offset=0.

    Returns:
        [K, C, P, P] in the dtype and layout of the input. Empty boxes with an adaptive n give 0, where torchvision
        gives NaN.

    Raises:
        TypeError, ValueError: if an argument has a wrong type, shape or range. Image indices and the number of channels
            are checked too.
    """
    chosen = _sampled("ps_align", sampling_ratio, switches)
    return functional.pool_single_level(input, boxes, output_size, spatial_scale, chosen, box_gradient)


def ps_roi_warp(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    box_gradient: bool = False,
    **switches: Unpack[GeometryOverrides],
) -> Tensor:
    """Position-sensitive RoIWarp: the box is rounded as by :func:`ps_roi_pool`, its bins are sampled bilinearly.

    With ``X = round(x s)`` and ``w = max(X2 - X1, 1)``, sample i of n in bin p lies at
    ``X1 + (p + (i + 0.5) / n) w / P``.

    Args:
        input: [N, C P P, H, W], as for :func:`ps_roi_align`.
        boxes: [K, 5] or a list of [k, 4], as for :func:`ps_roi_align`.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        sampling_ratio: n, at most 1024. If it is 0 or negative, n is ``ceil(w / P)``.
        box_gradient: compute gradients of the box coordinates, with rounding treated as identity.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as plus_one=True.

    Returns:
        [K, C, P, P] in the dtype and layout of the input.

    Raises:
        TypeError, ValueError: as :func:`ps_roi_align`.
    """
    chosen = _sampled("ps_warp", sampling_ratio, switches)
    return functional.pool_single_level(input, boxes, output_size, spatial_scale, chosen, box_gradient)


def ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    *,
    preset: PoolPreset = "ps_pool",
    **switches: Unpack[SwitchOverrides],
) -> Tensor:
    """Position-sensitive RoIPool, called like torchvision's.

    ``out[r, c, p, q]`` is the mean over the cells of bin (p, q) in channel ``(c P + p) P + q`` of the input, and 0 for
    an empty bin. With ``X = round(x s)`` and ``w = max(X2 - X1, 1)``, bin p covers cells
    ``X1 + floor(p (w / P)) .. X1 + ceil((p + 1) (w / P)) - 1``. As in torchvision's forward pass, the last row and the
    last column of the map are never read (``border="inner"``). The backward pass is the gradient of that; torchvision's
    is the gradient of ``border="align"``, which differs for bins at the last row or column.

    Args:
        input: [N, C P P, H, W], as for :func:`ps_roi_align`.
        boxes: [K, 5] or a list of [k, 4], as for :func:`ps_roi_align`.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        preset: "ps_pool" is torchvision's operator. "ps_pool_rfcn" is that of the released R-FCN: the box spans
            ``round(x1) s`` to ``(round(x2) + 1) s`` and at least 0.1 cells, and the whole map is read.
        switches: any switch of :class:`maskrcnn_ops.Switches`, such as border="align".

    Returns:
        [K, C, P, P] in the dtype and layout of the input.

    Raises:
        TypeError, ValueError: as :func:`ps_roi_align`.
    """
    return functional.pool_single_level(input, boxes, output_size, spatial_scale, _pooled(preset, switches))


class _SampledModule(RoIModule):
    """The modules whose bins hold samples."""

    settings = ("output_size", "spatial_scale", "sampling_ratio")
    preset_name: str

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        *,
        box_gradient: bool = False,
        **switches: Unpack[GeometryOverrides],
    ) -> None:
        chosen = _sampled(self.preset_name, sampling_ratio, switches)
        plain = _sampled(self.preset_name, sampling_ratio, {})
        super().__init__(output_size, spatial_scale, chosen, plain, box_gradient)
        self.sampling_ratio = sampling_ratio


class PSRoIAlign(_SampledModule):
    """Module form of :func:`ps_roi_align`, with the same arguments."""

    preset_name = "ps_align"


class PSRoIWarp(_SampledModule):
    """Module form of :func:`ps_roi_warp`, with the same arguments."""

    preset_name = "ps_warp"


class PSRoIPool(RoIModule):
    """Module form of :func:`ps_roi_pool`, with the same arguments."""

    settings = ("output_size", "spatial_scale", "preset")

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        *,
        preset: PoolPreset = "ps_pool",
        **switches: Unpack[SwitchOverrides],
    ) -> None:
        super().__init__(output_size, spatial_scale, _pooled(preset, switches), named(preset))
        self.preset = preset
