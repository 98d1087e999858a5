"""The RoI operators for other runtimes: as standard operators if they exist, else as plain arithmetic.

Every box is pooled from every level, and the right level is selected. Shapes then do not depend on values, but the
work grows with the number of levels.
"""

from __future__ import annotations

import torch
from maskrcnn_ops import PRESETS, RoIOp, Switches
from maskrcnn_ops.geometry import choose_levels, edges_of
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from maskrcnn.errors import UserError


class ExportedRoIOp:
    """An operator of the family for exported graphs.

    * Means of samples at the centres of bins (align, align_legacy, warp, warp_continuous) become ONNX's RoiAlign on
      boxes that are rounded and given their minimum size before.
    * pool becomes MaxRoiPool.
    * Maxima of samples, other sample positions and MNC's border (align max, warp_mnc) become gathering and bilinear
      weights.
    * Position-sensitive operators pool all channels in this way and select the bins that they read.

    Args:
        operator: a `maskrcnn_ops.RoIOp`.

    Raises:
        UserError: the operator cannot be exported: bins of whole cells other than pool's, adaptive numbers of samples
            that need gathering, and operators outside the family.
    """

    def __init__(self, operator: object) -> None:
        if not isinstance(operator, RoIOp):
            raise UserError(
                f"a model with the RoI operator {type(operator).__name__} cannot be exported: only operators of "
                "maskrcnn_ops can"
            )
        self.switches = Switches.unpacked(operator.packed(), operator.reduction)
        self.pool = _same_pooling(self.switches, PRESETS["pool"])
        samples = self.switches.sample_position == "centre" and self.switches.border == "align"
        self.standard = samples and self.switches.reduction == "avg" and not self.switches.bin_rounding
        if not (self.pool or self.standard):
            _check_decomposable(self.switches)

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        """Pool every box. Arguments and result as in `RoIOp`."""
        strides = sorted(features)
        scales = [1.0 / stride for stride in strides]
        image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2]).reshape(-1)
        flat, counts = boxes.reshape(-1, 4), valid.reshape(-1)
        levels = choose_levels(flat, scales, self.switches)
        out = None
        for level, stride in enumerate(strides):
            chosen = (levels == level) & counts
            # Boxes of other levels are pooled as an empty box, which is cheap and reads no invalid memory.
            own = torch.where(chosen[:, None], flat, 0.0)
            pooled = self._pool(features[stride], own, image, output_size, scales[level])
            pooled = torch.where(chosen[:, None, None, None], pooled, 0.0)
            out = pooled if out is None else out + pooled
        assert out is not None
        return out

    def _pool(self, feature: Tensor, boxes: Tensor, image: Tensor, size: int, scale: float) -> Tensor:
        pooled = self._pool_all(feature, boxes, image, size, scale)
        return _own_bins(pooled) if self.switches.position_sensitive else pooled

    def _pool_all(self, feature: Tensor, boxes: Tensor, image: Tensor, size: int, scale: float) -> Tensor:
        index = image[:, None].to(boxes.dtype)
        if self.pool:
            return roi_pool(feature, torch.cat([index, boxes], 1), size, scale)
        start, bins = _starts_and_bins(boxes, size, scale, self.switches)  # [R, 2]: x, y
        if not self.standard:
            return _decomposed(feature, start, bins, image, size, self.switches)
        cells = torch.cat([index, start + 0.5, start + bins * size + 0.5], 1)
        return roi_align(feature, cells, size, 1.0, max(self.switches.sampling_ratio, 0), aligned=True)


def _own_bins(pooled: Tensor) -> Tensor:
    """Select bin b of channel ``c P P + b``: ``[R, C P P, P, P]`` to ``[R, C, P, P]``."""
    regions, channels, height, width = pooled.shape
    bins = height * width
    own = torch.eye(bins, dtype=torch.bool, device=pooled.device)
    parts = pooled.reshape(regions, channels // bins, bins, bins)
    return torch.where(own, parts, 0.0).sum(2).reshape(regions, channels // bins, height, width)


def _same_pooling(one: Switches, other: Switches) -> bool:
    """Whether two operators differ only in how they choose levels, and in samples that they do not take."""
    whole = one.bin_rounding and other.bin_rounding
    # Borders other than "inner" do not affect whole cells.
    cells = (one.border == "inner") == (other.border == "inner")
    samples = (5, 6, 7) if whole and cells else ()
    numbers = [
        (a, b) for i, (a, b) in enumerate(zip(one.packed(), other.packed(), strict=True)) if i not in samples
    ]
    return one.reduction == other.reduction and all(a == b for a, b in numbers[: -2 or None])


def _check_decomposable(switches: Switches) -> None:
    if switches.bin_rounding:
        raise UserError(
            "of the RoI operators with bins of whole cells (bin_rounding=true) only roi_op=pool can be exported, which "
            "is ONNX's MaxRoiPool"
        )
    if switches.sampling_ratio <= 0:
        raise UserError(
            "sampling_ratio=-1 (adaptive) can only be exported with reduction=avg, sample_position=centre and "
            "border=align; give the number of samples"
        )


def _starts_and_bins(boxes: Tensor, size: int, scale: float, switches: Switches) -> tuple[Tensor, Tensor]:
    """Start and bin size of the regions ``[R, 4]`` in cells: ``[R, 2]`` (x, y) each."""
    edges = [edges_of(boxes[:, axis], boxes[:, axis + 2], scale, size, switches) for axis in range(2)]
    return torch.stack([start for start, _, _ in edges], 1), torch.stack([bins for _, bins, _ in edges], 1)


def _decomposed(
    feature: Tensor, start: Tensor, bins: Tensor, image: Tensor, size: int, switches: Switches
) -> Tensor:
    """Sample regions ``[R, 2]`` of ``feature`` ``[N, C, H, W]`` bilinearly and reduce them: ``[R, C, P, P]``."""
    num, channels, height, width = feature.shape
    x, y = (_Samples(start[:, a], bins[:, a], size, side, switches) for a, side in ((0, width), (1, height)))
    cells = feature.permute(0, 2, 3, 1).reshape(num * height * width, channels)
    values = torch.zeros((), dtype=feature.dtype, device=feature.device)
    for rows, row_weight in y.taps():
        for columns, column_weight in x.taps():
            place = (image[:, None, None] * height + rows[:, :, None]) * width + columns[:, None]
            weight = row_weight[:, :, None] * column_weight[:, None]
            values = values + cells[place] * weight[..., None].to(feature.dtype)  # [R, P S, P S, C]
    inside = y.inside[:, :, None] & x.inside[:, None]
    samples = switches.sampling_ratio
    values = values.reshape(-1, size, samples, size, samples, channels)
    inside = inside.reshape(-1, size, samples, size, samples, 1)
    values = torch.where(inside, values, 0.0)  # samples outside the map count as 0
    average = switches.reduction == "avg"
    reduced = values.sum((2, 4)) / samples**2 if average else values.amax((2, 4))
    return reduced.permute(0, 3, 1, 2)


class _Samples:
    """The S samples of each of P bins along one axis of R regions.

    Cells, weights and whether they are inside the map are ``[R, P S]``.
    """

    def __init__(self, start: Tensor, bins: Tensor, size: int, side: int, switches: Switches) -> None:
        samples = switches.sampling_ratio
        offset = {"centre": 0.5, "corner": 0.0, "thirds": 1.0}[switches.sample_position]
        parts = samples + 1 if switches.sample_position == "thirds" else samples
        steps = (torch.arange(samples, device=start.device, dtype=start.dtype) + offset) / parts
        bin_index = torch.arange(size, device=start.device, dtype=start.dtype)
        at = start[:, None, None] + (bin_index[:, None] + steps) * bins[:, None, None]
        at = at.reshape(-1, size * samples)
        margin = {"align": 1.0, "mnc": 0.5, "inner": 0.0}[switches.border]
        self.inside = (at >= -margin) & (at <= side - 1 + margin)
        at = torch.minimum(at.clamp(min=0), torch.zeros_like(at) + (side - 1))
        self.low = at.floor().to(torch.int64)
        self.weight = at - self.low
        self.high = torch.minimum(self.low + 1, torch.zeros_like(self.low) + (side - 1))

    def taps(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The two cells that every sample reads, and their weights."""
        return (self.low, 1 - self.weight), (self.high, self.weight)
