"""How the images of a batch are padded to one size."""

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
    """Few distinct sizes let compiled code and captured graphs be used again, at the price of padding.

    size_divisor: H and W are multiples of it. least: (H, W) at least; with a fixed crop, the crop, so that
    there is one size. buckets: sizes [H, W] of which the smallest that holds the batch is taken (a batch that none
    holds gets a size of its own), or a number that H and W are multiples of; None for every multiple of size_divisor.

    Raises UserError for buckets that are no multiples of size_divisor.
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
        """(H, W) of the canvas for a batch whose images are at most this high and this wide."""
        height, width = max(height, self.least[0]), max(width, self.least[1])
        step = self.buckets if isinstance(self.buckets, int) else self.size_divisor
        own = -(-height // step) * step, -(-width // step) * step
        if self.buckets is None or isinstance(self.buckets, int):
            return own
        fitting = [(h, w) for h, w in self.buckets if h >= height and w >= width]
        return min(fitting, key=lambda size: size[0] * size[1], default=own)


def batch_images(pictures: Sequence[Picture], canvas: Canvas) -> Images:
    """Pictures, all uint8 or all float32, at the top left of one canvas, padded with zeros to the right and below."""
    sizes = np.array([picture.size for picture in pictures])
    height, width = canvas.size(*sizes.max(axis=0).tolist())
    out: Drawn = np.empty((len(pictures), height, width, pictures[0].image.shape[2]), pictures[0].dtype)
    for n, picture in enumerate(pictures):
        h, w = picture.size
        picture.draw(out[n, :h, :w])
        out[n, h:] = 0
        out[n, :h, w:] = 0
    # A permuted view: channels-last in memory, which is what decoding gives and convolutions like best.
    return Images(torch.from_numpy(out).permute(0, 3, 1, 2), torch.from_numpy(sizes).float())
