"""The RoI operators in plain PyTorch, on any device.

The compiled kernels must equal them. They are used if there are no compiled kernels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .geometry import Points
from .reference_points import (
    cells_by_row,
    corner_cells,
    in_chunks,
    maps_of,
    point_values,
    point_weights,
    regions_by_level,
    used_points,
)
from .switches import Switches


def _like_output(
    features: list[Tensor], regions: int, output: tuple[int, int], dtype: torch.dtype, group: int
) -> Tensor:
    first = features[0]
    shape = (regions, first.shape[1] // group, *output)
    return torch.zeros(shape, dtype=dtype, device=first.device).contiguous(memory_format=layout_of(first))


def layout_of(feature: Tensor) -> torch.memory_format:
    """Return channels-last if the feature map is channels-last and not also contiguous."""
    if not feature.is_contiguous() and feature.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def roi_sample(
    features: list[Tensor],
    boxes: Tensor,
    image: Tensor,
    winner: Tensor | None,
    height: int,
    width: int,
    scales: list[float],
    packed: list[float],
) -> Tensor:
    """Compute the mean over the points of every bin, or the value at its ``winner``. Both are linear in the features.

    Args:
        features: L maps [N, C, H, W], fine to coarse; [N, C height width, H, W] for position-sensitive operators.
        boxes: [R, 4] x1, y1, x2, y2 in pixels; float64 if the features are, else float32.
        image: [R] int64 image indices; -1 marks a padded region.
        winner: [R, C, height, width] int32 from :func:`roi_maximum`, or None for the mean.
        height, width: size of the output.
        scales: 1 / stride of every level.
        packed: the switches, from :meth:`Switches.packed`.

    Returns:
        [R, C, height, width]. Padded regions are 0.
    """
    switches = Switches.unpacked(packed, "avg")
    check_image(image, features[0].shape[0])
    sizes = [(f.shape[2], f.shape[3]) for f in features]
    group = switches.input_channels(height, width)
    check_channels(features[0].shape[1], group, winner)
    out = _like_output(features, len(boxes), (height, width), boxes.dtype, group)
    for level, regions in regions_by_level(boxes, image, sizes, scales, switches):
        cells = cells_by_row(features[level], boxes.dtype, group)
        pieces = in_chunks(
            boxes[regions], scales[level], (height, width), sizes[level], cells.shape[1], switches
        )
        for rows, channels, y, x in pieces:
            index = regions[rows]
            chosen = None if winner is None else winner[index][:, channels]
            weights = point_weights(y, x, chosen, sizes[level], switches)
            values = point_values(cells[:, channels], y, x, image[index], sizes[level], group)
            # A point of weight 0 may be NaN or infinite.
            mean = torch.where(weights != 0, values * weights, 0).sum(dim=(2, 4))  # [R, P, Q, C]
            out[index, channels] = mean.permute(0, 3, 1, 2)
    return out.to(features[0].dtype)


def roi_maximum(
    features: list[Tensor],
    boxes: Tensor,
    image: Tensor,
    height: int,
    width: int,
    scales: list[float],
    packed: list[float],
) -> tuple[Tensor, Tensor]:
    """Compute the maximum over the points of every bin. The arguments are those of :func:`roi_sample`.

    Returns:
        The values [R, C, height, width], and the winning points, int32 of the same shape. With bin rounding, a winner
        is the cell ``y W + x`` of its map; otherwise the index among the samples of the bin that lie inside the map.
        -1 means none.
    """
    switches = Switches.unpacked(packed, "max")
    check_image(image, features[0].shape[0])
    sizes = [(f.shape[2], f.shape[3]) for f in features]
    out = _like_output(features, len(boxes), (height, width), boxes.dtype, 1)
    winner = torch.full_like(out, -1, dtype=torch.int32)
    for level, regions in regions_by_level(boxes, image, sizes, scales, switches):
        cells = cells_by_row(features[level], boxes.dtype, 1)
        pieces = in_chunks(
            boxes[regions], scales[level], (height, width), sizes[level], cells.shape[1], switches
        )
        for rows, channels, y, x in pieces:
            index = regions[rows]
            values = point_values(cells[:, channels], y, x, image[index], sizes[level], 1)
            best, place = _best_points(values, y, x, sizes[level], switches)
            out[index, channels] = best.permute(0, 3, 1, 2)
            winner[index, channels] = place.permute(0, 3, 1, 2).to(torch.int32)
    return out.to(features[0].dtype), winner


def _best_points(
    values: Tensor, y: Points, x: Points, size: tuple[int, int], switches: Switches
) -> tuple[Tensor, Tensor]:
    """Return the largest of values [R, P, M, Q, L, C] and its number, both [R, P, Q, C]."""
    if values.shape[2] == 0 or values.shape[4] == 0:
        none = values.new_zeros(values.shape[0], values.shape[1], values.shape[3], values.shape[5])
        return none, torch.full_like(none, -1, dtype=torch.int64)
    values = torch.where(used_points(y, x)[..., None], values, -math.inf)
    flat = values.transpose(2, 3).flatten(3, 4)  # [R, P, Q, M L, C]
    best, place = flat.max(dim=3)
    m, n = place // values.shape[4], place % values.shape[4]
    if switches.bin_rounding:
        place = (y.first[:, :, None, None] + m) * size[1] + x.first[:, None, :, None] + n
    else:
        place = m * x.count[:, None, :, None] + n
    empty = ((y.count[:, :, None] == 0) | (x.count[:, None] == 0))[..., None]
    outside = (y.outside[:, :, None] | x.outside[:, None])[..., None]
    lost = empty | (outside & ~(best > 0) & ~best.isnan())
    return torch.where(lost, 0, best), torch.where(lost, -1, place)


def roi_spread(
    grad: Tensor,
    boxes: Tensor,
    image: Tensor,
    winner: Tensor | None,
    shape: list[int],
    scales: list[float],
    packed: list[float],
    channels_last: bool,
    atomic: bool,
) -> list[Tensor]:
    """Compute the gradients of the features, which is the adjoint of :func:`roi_sample`.

    Args:
        grad: [R, C, P, Q] gradient of the output.
        boxes, image, winner, scales, packed: as for :func:`roi_sample`.
        shape: N and the number of channels of the features, then height and width of every level.
        channels_last: layout of the gradients.
        atomic: allow the CUDA kernels to add in any order. The reference ignores it.

    Returns:
        One gradient for each level, in the shape of its map.
    """
    switches = Switches.unpacked(packed, "avg")
    check_image(image, shape[0])
    sizes = list(zip(shape[2::2], shape[3::2], strict=True))
    output = (grad.shape[2], grad.shape[3])
    group = switches.input_channels(*output)
    check_channels(shape[1], group, winner)
    maps = [boxes.new_zeros(shape[0] * h * w * group, shape[1] // group) for h, w in sizes]
    for level, regions in regions_by_level(boxes, image, sizes, scales, switches):
        pieces = in_chunks(boxes[regions], scales[level], output, sizes[level], shape[1] // group, switches)
        for rows, channels, y, x in pieces:
            index = regions[rows]
            chosen = None if winner is None else winner[index][:, channels]
            weights = point_weights(y, x, chosen, sizes[level], switches)
            part = grad[index][:, channels].to(boxes.dtype).permute(0, 2, 3, 1)[:, :, None, :, None]
            part = torch.where(weights != 0, part * weights, 0)  # [R, P, M, Q, L, C]
            target = maps[level][:, channels]
            for cell, weight in corner_cells(y, x, image[index], sizes[level], group):
                target.index_add_(0, cell.flatten(), (part * weight[..., None]).flatten(0, 4))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        maps_of(m, shape[0], size, group).to(grad.dtype).contiguous(memory_format=layout)
        for m, size in zip(maps, sizes, strict=True)
    ]


def roi_box_gradient(
    grad: Tensor,
    features: list[Tensor],
    boxes: Tensor,
    image: Tensor,
    winner: Tensor | None,
    scales: list[float],
    packed: list[float],
) -> Tensor:
    """Compute the gradient of the box coordinates.

    Rounding is treated as identity, and the number of samples as constant.

    Args:
        grad: [R, C, P, Q] gradient of the output.
        features: as for :func:`roi_sample`.
        boxes: as for :func:`roi_sample`.
        image: as for :func:`roi_sample`.
        winner: as for :func:`roi_sample`.
        scales: as for :func:`roi_sample`.
        packed: as for :func:`roi_sample`.

    Returns:
        [R, 4].
    """
    switches = Switches.unpacked(packed, "avg")
    sizes = [(f.shape[2], f.shape[3]) for f in features]
    output = (grad.shape[2], grad.shape[3])
    group = switches.input_channels(*output)
    result = torch.zeros_like(boxes)
    for level, regions in regions_by_level(boxes, image, sizes, scales, switches):
        cells = cells_by_row(features[level], boxes.dtype, group)
        pieces = in_chunks(boxes[regions], scales[level], output, sizes[level], cells.shape[1], switches)
        for rows, channels, y, x in pieces:
            index = regions[rows]
            chosen = None if winner is None else winner[index][:, channels]
            weights = point_weights(y, x, chosen, sizes[level], switches)
            part = grad[index][:, channels].to(boxes.dtype).permute(0, 2, 3, 1)[:, :, None, :, None]
            part = torch.where(weights != 0, part * weights, 0)
            by_y, by_x = _slopes(cells[:, channels], y, x, image[index], sizes[level], group)
            by_y, by_x = (part * by_y).sum(5), (part * by_x).sum(5)  # [R, P, M, Q, L]
            y_low, y_high = _edge_gradients(by_y.sum(dim=(3, 4)), y, scales[level])
            x_low, x_high = _edge_gradients(by_x.sum(dim=(1, 2)), x, scales[level])
            result.index_add_(0, index, torch.stack([x_low, y_low, x_high, y_high], dim=1))
    return result


def _slopes(
    cells: Tensor, y: Points, x: Points, image: Tensor, size: tuple[int, int], group: int
) -> tuple[Tensor, Tensor]:
    """Return the derivatives [R, P, M, Q, L, C] of the interpolated values by y and by x."""
    values = [cells[index] for index, _ in corner_cells(y, x, image, size, group)]
    right, down = x.high_weight[:, None, None, :, :, None], y.high_weight[:, :, :, None, None, None]
    by_y = (values[2] - values[0]) * (1 - right) + (values[3] - values[1]) * right
    by_x = (values[1] - values[0]) * (1 - down) + (values[3] - values[2]) * down
    return by_y * y.slope[:, :, :, None, None, None], by_x * x.slope[:, None, None, :, :, None]


def _edge_gradients(by_point: Tensor, points: Points, scale: float) -> tuple[Tensor, Tensor]:
    """Return the gradients [R] of both edges, given those of the coordinates of the points [R, P, M]."""
    along = torch.where(points.free[:, None, None], points.along, 0)
    by_point = torch.where(points.used, by_point, 0)
    return ((1 - along) * by_point).sum(dim=(1, 2)) * scale, (along * by_point).sum(dim=(1, 2)) * scale


def check_image(image: Tensor, images: int) -> None:
    """Raise ValueError for an image index out of range. Only the CPU checks it, since a GPU would synchronise."""
    if image.device.type == "cpu" and image.numel():
        low, high = int(image.min()), int(image.max())
        if low < -1 or high >= images:
            found = low if low < -1 else high
            raise ValueError(f"boxes: image index {found} is out of range for {images} images")


def check_channels(channels: int, group: int, winner: Tensor | None) -> None:
    """Raise ValueError unless there are ``group`` channels for each channel of the output.

    ``group`` is P * Q for position-sensitive operators and 1 otherwise.
    """
    if channels % group:
        raise ValueError(
            f"features: position_sensitive takes a multiple of P * P = {group} channels, found {channels}"
        )
    if group > 1 and winner is not None:
        raise ValueError("winner: position_sensitive only supports the mean")
