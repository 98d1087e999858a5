"""The RoI operators in plain PyTorch, on any device.

The compiled kernels must equal them. They are used if there are no compiled kernels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .geometry import Points
from .reference_points import Piece, cells_by_row, maps_of, pieces
from .switches import Switches


def sizes_of(shape: list[int]) -> list[tuple[int, int]]:
    """Return (H, W) of every level of a shape N, C, H, W, H, W, ..."""
    return list(zip(shape[2::2], shape[3::2], strict=True))


def shape_of(features: list[Tensor]) -> list[int]:
    """Return N and the number of channels of the features, then height and width of every level."""
    return [*features[0].shape[:2], *(side for f in features for side in f.shape[2:])]


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
    (images, channels, *_), first = shape_of(features), features[0]
    switches = Switches.unpacked(packed, "avg")
    group = switches.input_channels(height, width)
    _check_image(image, images)
    out = boxes.new_zeros(len(boxes), channels // group, height, width)
    out = out.contiguous(memory_format=layout_of(first))
    cells = [cells_by_row(feature, boxes.dtype, group) for feature in features]
    sizes = sizes_of(shape_of(features))
    for piece in pieces(boxes, image, (height, width), sizes, scales, channels, switches):
        weights, values = piece.weights(winner), piece.values(cells[piece.level])
        # A point of weight 0 may be NaN or infinite.
        mean = torch.where(weights != 0, values * weights, 0).sum(dim=(2, 4))  # [R, P, Q, C]
        out[piece.regions, piece.channels] = mean.permute(0, 3, 1, 2)
    return out.to(first.dtype)


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
    (images, channels, *_), first = shape_of(features), features[0]
    switches = Switches.unpacked(packed, "max")
    _check_image(image, images)
    out = boxes.new_zeros(len(boxes), channels, height, width).contiguous(memory_format=layout_of(first))
    winner = torch.full_like(out, -1, dtype=torch.int32)
    cells = [cells_by_row(feature, boxes.dtype, 1) for feature in features]
    sizes = sizes_of(shape_of(features))
    for piece in pieces(boxes, image, (height, width), sizes, scales, channels, switches):
        best, place = _best_points(piece, piece.values(cells[piece.level]))
        out[piece.regions, piece.channels] = best.permute(0, 3, 1, 2)
        winner[piece.regions, piece.channels] = place.permute(0, 3, 1, 2).to(torch.int32)
    return out.to(first.dtype), winner


def _best_points(piece: Piece, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of values [R, P, M, Q, L, C] and the number of its point, both [R, P, Q, C]."""
    y, x = piece.y, piece.x
    if values.shape[2] == 0 or values.shape[4] == 0:
        none = values.new_zeros(values.shape[0], values.shape[1], values.shape[3], values.shape[5])
        return none, torch.full_like(none, -1, dtype=torch.int64)
    values = torch.where(piece.used()[..., None], values, -math.inf)
    best, place = values.transpose(2, 3).flatten(3, 4).max(dim=3)  # over [R, P, Q, M L, C]
    place = piece.numbers().transpose(2, 3).flatten(3, 4).gather(3, place)
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
    images, channels, *_ = shape
    switches, output, sizes = (
        Switches.unpacked(packed, "avg"),
        (grad.shape[2], grad.shape[3]),
        sizes_of(shape),
    )
    group = switches.input_channels(*output)
    _check_image(image, images)
    maps = [boxes.new_zeros(images * h * w * group, channels // group) for h, w in sizes]
    for piece in pieces(boxes, image, output, sizes, scales, channels, switches):
        part = _grad_of_points(piece, grad, winner)
        target = maps[piece.level][:, piece.channels]
        for cell, weight in piece.corners():
            target.index_add_(0, cell.flatten(), (part * weight[..., None]).flatten(0, 4))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        maps_of(m, images, size, group).to(grad.dtype).contiguous(memory_format=layout)
        for m, size in zip(maps, sizes, strict=True)
    ]


def _grad_of_points(piece: Piece, grad: Tensor, winner: Tensor | None) -> Tensor:
    """Return the gradients [R, P, M, Q, L, C] of the values of the points."""
    weights = piece.weights(winner)
    return torch.where(weights != 0, piece.of(grad).to(weights.dtype) * weights, 0)


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
        features, boxes, image, winner, scales, packed: as for :func:`roi_sample`.

    Returns:
        [R, 4].
    """
    switches, output = Switches.unpacked(packed, "avg"), (grad.shape[2], grad.shape[3])
    group, shape = switches.input_channels(*output), shape_of(features)
    cells = [cells_by_row(feature, boxes.dtype, group) for feature in features]
    result = torch.zeros_like(boxes)
    for piece in pieces(boxes, image, output, sizes_of(shape), scales, shape[1], switches):
        part = _grad_of_points(piece, grad, winner)
        by_y, by_x = (
            (part * slope).sum(5) for slope in _slopes(piece, cells[piece.level])
        )  # [R, P, M, Q, L]
        y_low, y_high = _edge_gradients(by_y.sum(dim=(3, 4)), piece.y, scales[piece.level])
        x_low, x_high = _edge_gradients(by_x.sum(dim=(1, 2)), piece.x, scales[piece.level])
        result.index_add_(0, piece.regions, torch.stack([x_low, y_low, x_high, y_high], dim=1))
    return result


def _slopes(piece: Piece, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives [R, P, M, Q, L, C] of the interpolated values by y and by x."""
    y, x = piece.y, piece.x
    values = [cells[:, piece.channels][index] for index, _ in piece.corners()]
    right, down = x.high_weight[:, None, None, :, :, None], y.high_weight[:, :, :, None, None, None]
    by_y = (values[2] - values[0]) * (1 - right) + (values[3] - values[1]) * right
    by_x = (values[1] - values[0]) * (1 - down) + (values[3] - values[2]) * down
    return by_y * y.slope[:, :, :, None, None, None], by_x * x.slope[:, None, None, :, :, None]


def _edge_gradients(by_point: Tensor, points: Points, scale: float) -> tuple[Tensor, Tensor]:
    """Return the gradients [R] of both edges, given those of the coordinates of the points [R, P, M]."""
    along = torch.where(points.free[:, None, None], points.along, 0)
    by_point = torch.where(points.used, by_point, 0)
    return ((1 - along) * by_point).sum(dim=(1, 2)) * scale, (along * by_point).sum(dim=(1, 2)) * scale


def _check_image(image: Tensor, images: int) -> None:
    """Raise ValueError for an image index out of range. Only the CPU checks it, since a GPU would synchronise."""
    if image.device.type == "cpu" and image.numel():
        low, high = int(image.min()), int(image.max())
        if low < -1 or high >= images:
            found = low if low < -1 else high
            raise ValueError(f"boxes: image index {found} is out of range for {images} images")
