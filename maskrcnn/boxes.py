"""Box geometry as pure functions. Boxes are ``[..., 4]`` ``x1, y1, x2, y2``, continuous pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# dw and dh beyond this would blow a 16 px anchor up past 1000 px (Fast R-CNN's released code).
MAX_LOG_SCALE = math.log(1000.0 / 16)


def area(boxes: Tensor) -> Tensor:
    """``[..., 4]`` to ``[...]``, square pixels; 0 for boxes of negative width or height."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection areas: ``[..., K, 4]`` and ``[..., G, 4]`` to ``[..., K, G]``."""
    top_left = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    bottom_right = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    size = (bottom_right - top_left).clamp(min=0)
    return size[..., 0] * size[..., 1]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection over union: ``[..., K, 4]`` and ``[..., G, 4]`` to ``[..., K, G]`` in 0..1."""
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def covered(a: Tensor, b: Tensor) -> Tensor:
    """The share of each ``a`` that lies inside each ``b``: ``[..., K, 4]``, ``[..., G, 4]`` to ``[..., K, G]``."""
    own = area(a)[..., :, None]
    return intersection(a, b) / own.clamp(min=torch.finfo(own.dtype).tiny)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes ``[N, ..., 4]`` cut to images of ``sizes`` ``[N, 2]`` (height, width)."""
    limit = sizes.flip(-1).repeat(1, 2)  # [N, 4]: width, height, width, height
    limit = limit.reshape(limit.shape[0], *[1] * (boxes.dim() - 2), 4).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas ``[..., 4]`` that turn ``anchors`` into ``boxes`` (R-CNN, appendix C).

    ``dx = wx (x - xa) / wa``, ``dw = ww log(w / wa)``; x is the centre. A box or anchor narrower than
    1e-3 pixel counts as that wide, so that the result is finite.
    """
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    anchor_size = (anchors[..., 2:] - anchors[..., :2]).clamp(min=1e-3)
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2
    anchor_centre = (anchors[..., 2:] + anchors[..., :2]) / 2
    deltas = torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    max_log_scale: float = MAX_LOG_SCALE,
) -> Tensor:
    """Boxes ``[..., 4]`` from ``deltas`` and ``anchors``: the inverse of `encode`; dw, dh at most ``max_log_scale``."""
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    anchor_centre = (anchors[..., 2:] + anchors[..., :2]) / 2
    deltas = deltas / deltas.new_tensor(weights)
    centre = deltas[..., :2] * anchor_size + anchor_centre
    half = deltas[..., 2:].clamp(max=max_log_scale).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)
