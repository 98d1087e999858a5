"""Box geometry as pure functions. Boxes are ``[..., 4]`` ``x1, y1, x2, y2``, in continuous pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# Larger dw and dh would scale a 16 px anchor to more than 1000 px (Fast R-CNN's released code).
MAX_LOG_SCALE = math.log(1000.0 / 16)


def area(boxes: Tensor) -> Tensor:
    """Area of boxes ``[..., 4]`` in square pixels, ``[...]``; 0 for boxes of negative width or height."""
    corner, far = boxes.split(2, -1)
    size: Tensor = (far - corner).clamp(min=0)
    return size[..., 0] * size[..., 1]


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection areas.

    Args:
        a: boxes ``[..., K, 4]``.
        b: boxes ``[..., G, 4]``.

    Returns:
        ``[..., K, G]`` in square pixels.
    """
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).unbind(-1)  # [..., K, 1]
    bx1, by1, bx2, by2 = b.unsqueeze(-3).unbind(-1)  # [..., 1, G]
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)
    return width * (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0)


def iou(a: Tensor, b: Tensor, shared: Tensor | None = None) -> Tensor:
    """Pairwise intersection over union.

    Args:
        a: boxes ``[..., K, 4]``.
        b: boxes ``[..., G, 4]``.
        shared: their `intersection` if it is already known.

    Returns:
        ``[..., K, G]`` in 0..1.
    """
    shared = intersection(a, b) if shared is None else shared
    union = area(a).unsqueeze(-1) + area(b).unsqueeze(-2) - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes to their images.

    Args:
        boxes: ``[N, ..., 4]``.
        sizes: ``[N, 2]`` (height, width) of the images.
    """
    limit = sizes.flip(-1).repeat(1, 2)  # [N, 4]: width, height, width, height
    limit = limit.reshape(limit.shape[0], *[1] * (boxes.dim() - 2), 4).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Compute the deltas that turn ``anchors`` into ``boxes`` (R-CNN, appendix C).

    ``dx = wx (x - xa) / wa`` and ``dw = ww log(w / wa)``, where x is the centre. Widths and heights below 1e-3 pixels
    count as 1e-3, so that the result is finite.

    Args:
        boxes: ``[..., 4]``.
        anchors: ``[..., 4]``.
        weights: factors of (dx, dy, dw, dh).

    Returns:
        Deltas ``[..., 4]``.
    """
    corner, far = boxes.split(2, -1)
    anchor_corner, anchor_far = anchors.split(2, -1)
    size, anchor_size = (far - corner).clamp(min=1e-3), (anchor_far - anchor_corner).clamp(min=1e-3)
    shift = ((far + corner) / 2 - (anchor_far + anchor_corner) / 2) / anchor_size
    deltas = torch.cat([shift, (size / anchor_size).log()], dim=-1)
    return deltas * _row_like(deltas, weights) if set(weights) != {1.0} else deltas


def decode(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    max_log_scale: float = MAX_LOG_SCALE,
) -> Tensor:
    """Compute boxes from deltas, the inverse of `encode`.

    Args:
        deltas: ``[..., 4]``.
        anchors: ``[..., 4]``.
        weights: factors of (dx, dy, dw, dh).
        max_log_scale: upper limit of dw and dh.

    Returns:
        Boxes ``[..., 4]``.
    """
    corner, far = anchors.split(2, -1)
    anchor_size = far - corner
    if set(weights) != {1.0}:
        deltas = deltas / _row_like(deltas, weights)
    shift, scale = deltas.split(2, -1)
    centre = shift * anchor_size + (corner + far) / 2
    half = scale.clamp(max=max_log_scale).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _row_like(deltas: Tensor, values: Sequence[float]) -> Tensor:
    """``values`` as a tensor like ``deltas``, cached except in an exported graph."""
    make = _row.__wrapped__ if torch.compiler.is_exporting() else _row
    return make(tuple(values), deltas.dtype, deltas.device)


@lru_cache(maxsize=32)
def _row(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A cached tensor, because copying numbers to a GPU makes the host wait."""
    return torch.tensor(values, dtype=dtype, device=device)
