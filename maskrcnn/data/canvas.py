"""Draws the images of a batch, resized and padded to one size, and pads their objects to one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from maskrcnn.data.dataset import Floats
from maskrcnn.data.images import Pixels
from maskrcnn.errors import UserError
from maskrcnn.structures import Images, Proposals

Drawn = npt.NDArray[Any]  # uint8 or float32
Buckets = int | Sequence[Sequence[int]]


class Normalise(NamedTuple):
    """Normalises to zero mean and unit variance, with the same operations as torchvision's detectors.

    Args:
        mean: of each channel in 0..255.
        std: of each channel in 0..255.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Pixels) -> Tensor:
        """Normalise ``[h, w, C]`` uint8 to ``[C, h, w]`` float32."""
        mean, std = (torch.tensor([v / 255 for v in values]).view(-1, 1, 1) for values in self)
        planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
        return (planes - mean) / std


@dataclass(frozen=True)
class Picture:
    """An image and how to draw it.

    Args:
        image: ``[h, w, C]`` uint8, after changes of colour and flips.
        resized: (height, width) to resize it to.
        window: (top, left, height, width) of the visible part of the resized image.
        normalise: applied in float32 before resizing, as torchvision does; None rounds to uint8 and lets the model
            normalise.
    """

    image: Pixels
    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    normalise: Normalise | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the visible part."""
        return self.window[2:]

    @property
    def dtype(self) -> type[np.uint8] | type[np.float32]:
        """Type of the drawn image: uint8 in 0..255, or normalised float32."""
        return np.uint8 if self.normalise is None else np.float32

    def draw(self, out: Drawn) -> None:
        """Draw the visible part into ``out`` ``[*size, C]``, which may be a view of a larger array."""
        top, left, height, width = self.window
        if self.normalise is not None:
            planes = self.normalise(self.image)[None]
            floats = functional.interpolate(planes, self.resized, mode="bilinear", align_corners=False)
            out[...] = floats[0].permute(1, 2, 0).numpy()[top : top + height, left : left + width]
            return
        shrinks = self.resized[0] < self.image.shape[0] or self.resized[1] < self.image.shape[1]
        # Both map pixel centres to pixel centres. Shrinking averages.
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        if self.resized == self.image.shape[:2]:
            out[...] = self.image[top : top + height, left : left + width]
        elif (height, width) == self.resized:
            drawn = cv2.resize(self.image, (width, height), dst=out, interpolation=how)
            if drawn.ctypes.data != out.ctypes.data:  # OpenCV allocated a new array
                out[...] = drawn.reshape(out.shape)
        else:
            drawn = cv2.resize(self.image, self.resized[::-1], interpolation=how)
            out[...] = drawn[top : top + height, left : left + width].reshape(out.shape)

    def pixels(self) -> Drawn:
        """The visible part as a new array."""
        out: Drawn = np.empty((*self.size, self.image.shape[2]), self.dtype)
        self.draw(out)
        return out


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
        sizes = [(self.buckets,) * 2] if isinstance(self.buckets, int) else self.buckets or []
        if any(len(size) != 2 or any(s < 1 or s % self.size_divisor for s in size) for size in sizes):
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


def padded(rows: Sequence[npt.NDArray[Any]], num: int, dtype: torch.dtype) -> Tensor:
    """Stack arrays ``[G_n, ...]``, padded with zeros to ``[N, num, ...]``."""
    out = torch.zeros(len(rows), num, *rows[0].shape[1:], dtype=dtype)
    for n, of_image in enumerate(rows):
        out[n, : len(of_image)] = torch.from_numpy(of_image)
    return out


def batch_proposals(proposals: Sequence[Floats | None]) -> Proposals | None:
    """Pad the proposals of each image to a common number, a multiple of 64; None if there are none.

    Args:
        proposals: ``[P_i, 5]`` of each image, or ``[P_i, 6]`` with labels.
    """
    given = [rows for rows in proposals if rows is not None]
    if not given:
        return None
    num = -(-max(max(len(rows) for rows in given), 1) // 64) * 64
    rows = padded(given, num, torch.float32)
    valid = padded([np.ones(len(of_image), bool) for of_image in given], num, torch.bool)
    labels = rows[..., 5].long() if rows.shape[-1] == 6 else None
    return Proposals(rows[..., :4].contiguous(), rows[..., 4].contiguous(), valid, labels)
