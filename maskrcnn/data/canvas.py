"""Pads the images of a batch to one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maskrcnn.data.picture import Drawn, Picture
from maskrcnn.errors import UserError
from maskrcnn.structures import Images

Buckets = int | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Canvas:
    """Sizes of a batch after padding. Few sizes let compiled code and CUDA graphs be reused, at the cost of padding.

    Args:
        size_divisor: H and W are multiples of this.
        least: smallest (H, W). With a fixed crop, this is the crop, so that there is one size.
        buckets: allowed canvas sizes [H, W]; the smallest that fits is used, and a larger batch keeps its own size. Or
            a number of which H and W are multiples. None allows every multiple of ``size_divisor``.

    Raises:
        UserError: ``buckets`` are not multiples of ``size_divisor``.
    """

    size_divisor: int = 32
    least: tuple[int, int] = (1, 1)
    buckets: Buckets | None = None

    def __post_init__(self) -> None:
        given = (
            [self.buckets] if isinstance(self.buckets, int) else [s for b in self.buckets or [] for s in b]
        )
        if any(side < 1 or side % self.size_divisor for side in given) or (
            not isinstance(self.buckets, int) and any(len(size) != 2 for size in self.buckets or [])
        ):
            raise UserError(
                f"buckets={self.buckets}: expected a multiple of size_divisor={self.size_divisor}, or a list of sizes "
                "[height, width] that are such multiples, for example [[800, 1344], [1344, 800]]"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the canvas for a batch with this maximum height and width in pixels."""
        height, width = max(height, self.least[0]), max(width, self.least[1])
        step = self.buckets if isinstance(self.buckets, int) else self.size_divisor
        own = -(-height // step) * step, -(-width // step) * step
        if self.buckets is None or isinstance(self.buckets, int):
            return own
        fitting = [(h, w) for h, w in self.buckets if h >= height and w >= width]
        return min(fitting, key=lambda size: size[0] * size[1], default=own)


def batch_images(pictures: Sequence[Picture], canvas: Canvas) -> Images:
    """Draw images, all uint8 or all float32, at the top left of one canvas, padded with zeros.

    Args:
        pictures: the images.
        canvas: how the size is chosen.
    """
    sizes = np.array([picture.size for picture in pictures])
    height, width = canvas.size(*sizes.max(axis=0).tolist())
    out: Drawn = np.empty((len(pictures), height, width, pictures[0].image.shape[2]), pictures[0].dtype)
    for n, picture in enumerate(pictures):
        h, w = picture.size
        picture.draw(out[n, :h, :w])
        out[n, h:] = 0
        out[n, :h, w:] = 0
    # A permuted view: channels-last in memory, as decoding returns it and as convolutions are fastest.
    return Images(torch.from_numpy(out).permute(0, 3, 1, 2), torch.from_numpy(sizes).float())
