"""Anchors: the boxes that the RPN starts from (Faster R-CNN, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


class Anchors:
    """``len(sizes[level]) * len(aspect_ratios)`` anchors at every place of every map.

    sizes: for each stride, smallest first, the square roots of the anchors' areas in pixels.
    aspect_ratios: height / width. offset: where in its cell an anchor is centred, in cells: 0.5 is the middle;
    0 is what torchvision and Detectron2 do.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        offset: float = 0.5,
    ) -> None:
        if len({len(level) for level in sizes}) != 1:
            raise ValueError(
                f"every level needs the same number of anchor sizes, got {[list(s) for s in sizes]}"
            )
        self.sizes = tuple(tuple(float(size) for size in level) for level in sizes)
        self.aspect_ratios = tuple(float(ratio) for ratio in aspect_ratios)
        self.offset = offset

    @property
    def per_place(self) -> int:
        """Anchors at one place of one map."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    def __call__(self, features: dict[int, Tensor]) -> list[Tensor]:
        """For each map ``[N, C, H, W]``, keyed by stride, its anchors ``[H * W * per_place, 4]`` in float32."""
        if len(features) != len(self.sizes):
            raise ValueError(
                f"anchor sizes for {len(self.sizes)} levels, but the pyramid has strides {sorted(features)}"
            )
        # In a graph made for images of any size a map's height is no number to remember a grid by.
        grid = _grid.__wrapped__ if torch.compiler.is_exporting() else _grid
        return [
            grid(
                shape[-2], shape[-1], stride, sizes, self.aspect_ratios, self.offset, features[stride].device
            )
            for (stride, sizes) in zip(sorted(features), self.sizes, strict=True)
            for shape in [features[stride].shape]
        ]


@lru_cache(maxsize=256)
def _grid(
    height: int,
    width: int,
    stride: int,
    sizes: tuple[float, ...],
    ratios: tuple[float, ...],
    offset: float,
    device: torch.device,
) -> Tensor:
    size = torch.tensor(sizes, device=device)
    root = torch.tensor(ratios, device=device).sqrt()
    half_height = (root[:, None] * size / 2).flatten()
    half_width = (size / root[:, None] / 2).flatten()
    base = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)  # [per_place, 4]
    y = (torch.arange(height, device=device) + offset) * stride
    x = (torch.arange(width, device=device) + offset) * stride
    centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).repeat(1, 1, 2)  # [H, W, 4]
    return (centre[:, :, None] + base).reshape(-1, 4)
