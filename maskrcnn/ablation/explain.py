"""How a RoI operator reads a box: the weight of every cell, and the effect of a shift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskrcnn.models.protocols import RoIOp

Floats = npt.NDArray[np.float64]
_RANDOM_MAPS = 8192
_AT_ONCE = 64  # maps per backward pass
_WAVES = 16  # channels of a smooth map


@dataclass(frozen=True)
class View:
    """How an operator reads a box on a feature map.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        stride: pixels per cell.
        weights: ``[P, P, H, W]``, the weight of every cell in every bin.
        true: ``[H, W]``, the share of the box's area in each cell; sums to 1.
    """

    box: tuple[float, float, float, float]
    stride: int
    weights: Floats
    true: Floats

    @property
    def seen(self) -> Floats:
        """``[H, W]``: the share of each cell in the weights of all bins; sums to 1."""
        total: Floats = self.weights.sum((0, 1))
        return np.asarray(total / max(total.sum(), 1e-12))

    @property
    def lost(self) -> Floats:
        """``[H, W]``: how much of the box's share in each cell the weights miss."""
        return np.maximum(self.true - self.seen, 0)

    @property
    def gained(self) -> Floats:
        """``[H, W]``: how much the weights exceed the box's share in each cell."""
        return np.maximum(self.seen - self.true, 0)

    @property
    def shift(self) -> tuple[float, float]:
        """Offset (x, y) of the centre of the weights from the centre of the box, in pixels of the image."""
        middle = [_middle(self.seen.sum(axis)) * self.stride for axis in (0, 1)]
        x1, y1, x2, y2 = self.box
        return middle[0] - (x1 + x2) / 2, middle[1] - (y1 + y2) / 2


def view(
    operator: RoIOp,
    box: tuple[float, float, float, float],
    stride: int,
    size: tuple[int, int],
    output_size: int,
) -> View:
    """Compute how an operator reads a box.

    A weight is the derivative of a bin with respect to a cell. If it depends on the map (the gradient of a maximum
    reaches only the largest cell), it is averaged over 8,192 random maps.

    Args:
        operator: any RoI operator.
        box: x1, y1, x2, y2 in pixels.
        stride: pixels per cell.
        size: (height, width) of the map in cells.
        output_size: P, bins per side.
    """
    weights = _weights(operator, box, stride, size, output_size)
    true = np.outer(_overlap(box[1], box[3], stride, size[0]), _overlap(box[0], box[2], stride, size[1]))
    return View(box, stride, weights, true / max(true.sum(), 1e-12))


def _weights(
    operator: RoIOp,
    box: tuple[float, float, float, float],
    stride: int,
    size: tuple[int, int],
    output_size: int,
) -> Floats:
    """Weights of all bins. Each bin has a channel of its own, so one backward pass is enough."""
    bins = output_size**2
    generator = torch.Generator().manual_seed(0)
    wanted = torch.eye(bins, dtype=torch.float64).reshape(1, bins, output_size, output_size)

    def gradients() -> Tensor:
        noise = torch.rand(_AT_ONCE, 1, *size, generator=generator, dtype=torch.float64)
        features = noise.expand(_AT_ONCE, bins, *size).contiguous().requires_grad_()
        region = torch.tensor([[box]], dtype=torch.float64).expand(_AT_ONCE, 1, 4)
        pooled = operator({stride: features}, region, torch.ones(_AT_ONCE, 1, dtype=torch.bool), output_size)
        (gradient,) = torch.autograd.grad(pooled, features, wanted.expand_as(pooled).to(pooled.dtype))
        return gradient

    first = gradients()
    weights = first[0]
    if not torch.equal(first, weights.expand_as(first)):  # the weights depend on the map
        weights = torch.stack([gradients().mean(0) for _ in range(_RANDOM_MAPS // _AT_ONCE)]).mean(0)
    of_cells: Floats = weights.reshape(output_size, output_size, *size).numpy()
    return of_cells


def _overlap(low: float, high: float, stride: int, cells: int) -> Floats:
    """Overlap of each cell with the range from ``low`` to ``high`` pixels, in cells."""
    edges = np.arange(cells + 1) * stride
    covered: Floats = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) / stride
    return covered


def _middle(weights: Floats) -> float:
    return float((weights * (np.arange(len(weights)) + 0.5)).sum() / max(weights.sum(), 1e-12))


def shift_curve(
    operator: RoIOp,
    maps: Callable[[float], Tensor],
    box: tuple[float, float, float, float],
    stride: int,
    output_size: int,
    shifts: Floats,
) -> Floats:
    """Compute how much the pooled features change when image and box move right together.

    The change is zero for an operator that keeps the alignment, except for the error of interpolation.

    Args:
        operator: any RoI operator.
        maps: returns the features ``[1, C, H, W]`` of the image moved right by a number of pixels.
        box: x1, y1, x2, y2 in pixels, before the movement.
        stride: pixels per cell.
        output_size: P, bins per side.
        shifts: ``[S]``, in pixels. The first one is the reference.

    Returns:
        ``[S]``, the root mean square change in percent of the features' standard deviation.
    """
    valid = torch.ones(1, 1, dtype=torch.bool)
    pooled = []
    for shift in shifts:
        moved = [[[box[0] + shift, box[1], box[2] + shift, box[3]]]]
        pooled.append(operator({stride: maps(float(shift))}, torch.tensor(moved), valid, output_size))
    spread = pooled[0].std()
    return np.array([float(100 * (p - pooled[0]).pow(2).mean().sqrt() / spread) for p in pooled])


def smooth_map(size: tuple[int, int], stride: int) -> Callable[[float], Tensor]:
    """Generate features of an image of waves longer than four cells, sampled at the centres of cells.

    Args:
        size: (height, width) of the map in cells.
        stride: pixels per cell.

    Returns:
        A function from a shift in pixels to the map ``[1, C, H, W]``.
    """
    rng = np.random.default_rng(0)
    waves = rng.uniform(-1, 1, (_WAVES, 6, 2)) * (2 * np.pi / (4 * stride))
    phases = rng.uniform(0, 2 * np.pi, (_WAVES, 6, 1, 1))
    y, x = ((np.arange(n) + 0.5) * stride for n in size)

    def at(shift: float) -> Tensor:
        angle = waves[..., 0, None, None] * y[:, None] + waves[..., 1, None, None] * (x - shift) + phases
        return torch.from_numpy(np.sin(angle).sum(1)[None].astype(np.float32))

    return at
