"""Anchors: the boxes that the RPN refines (Faster R-CNN, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from maskrcnn.errors import UserError

Spacing = Literal["stride", "map"]


class Anchors:
    """``len(sizes[level]) * len(aspect_ratios)`` anchors at every cell of every map.

    Args:
        sizes: for each stride, smallest first, the square roots of the anchors' areas in pixels.
        aspect_ratios: height / width.
        offset: position of an anchor's centre in its cell, in cells. 0.5 is the middle; torchvision and Detectron2 use
            0.
        rounded: round the corners of an anchor centred at 0 to integers, as torchvision does.
        spacing: distance of neighbouring cells in pixels. ``stride`` is the stride. ``map`` is the input's side
            divided by the map's, rounded down, as torchvision does. It is smaller if the side is not a multiple of the
            stride, as on P6.

    Raises:
        ValueError: the levels have different numbers of sizes.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        offset: float = 0.5,
        rounded: bool = False,
        spacing: Spacing = "stride",
    ) -> None:
        if len({len(level) for level in sizes}) != 1:
            raise ValueError(
                f"every level needs the same number of anchor sizes, got {[list(s) for s in sizes]}"
            )
        self.sizes = tuple(tuple(float(size) for size in level) for level in sizes)
        self.aspect_ratios = tuple(float(ratio) for ratio in aspect_ratios)
        self.offset, self.rounded, self.spacing = offset, rounded, spacing

    @property
    def per_place(self) -> int:
        """Number of anchors per cell of a map."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    def __call__(self, features: dict[int, Tensor]) -> list[Tensor]:
        """Generate the anchors.

        Args:
            features: maps ``[N, C, H, W]`` by stride.

        Returns:
            Anchors ``[H * W * per_place, 4]`` in float32, for each map.

        Raises:
            UserError: the number of maps is not that of ``sizes``.
        """
        if len(features) != len(self.sizes):
            raise UserError(
                f"model.rpn.anchors.sizes has sizes for {len(self.sizes)} levels, but the pyramid has strides "
                f"{sorted(features)}: give a list of sizes for each of them"
            )
        # In an exported graph, a map's height is symbolic and cannot be the key of a cache.
        grid = _grid.__wrapped__ if torch.compiler.is_exporting() else _grid
        return [
            grid(
                *(_sides(features[stride]), self._steps(features, stride), self.offset),
                *(sizes, self.aspect_ratios, self.rounded, features[stride].device),
            )
            for stride, sizes in zip(sorted(features), self.sizes, strict=True)
        ]

    def _steps(self, features: dict[int, Tensor], stride: int) -> tuple[int, int]:
        """Distance of neighbouring cells in pixels, vertically and horizontally."""
        if self.spacing == "stride":
            return stride, stride
        finest = min(features)
        (height, width), (rows, columns) = _sides(features[finest]), _sides(features[stride])
        return height * finest // rows, width * finest // columns


def _sides(feature: Tensor) -> tuple[int, int]:
    return feature.shape[-2], feature.shape[-1]


@lru_cache(maxsize=256)
def _grid(
    shape: tuple[int, int],
    steps: tuple[int, int],
    offset: float,
    sizes: tuple[float, ...],
    ratios: tuple[float, ...],
    rounded: bool,
    device: torch.device,
) -> Tensor:
    """Anchors of ``shape`` cells (rows, columns) that are ``steps`` pixels apart."""
    size = torch.tensor(sizes, device=device)
    root = torch.tensor(ratios, device=device).sqrt()
    half_height = (root[:, None] * size / 2).flatten()
    half_width = (size / root[:, None] / 2).flatten()
    base = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)  # [per_place, 4]
    base = base.round() if rounded else base
    y = (torch.arange(shape[0], device=device) + offset) * steps[0]
    x = (torch.arange(shape[1], device=device) + offset) * steps[1]
    centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).repeat(1, 1, 2)  # [H, W, 4]
    return (centre[:, :, None] + base).reshape(-1, 4)
