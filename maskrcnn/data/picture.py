"""An image that is resized when it is drawn into the canvas of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from maskrcnn.data.images import Pixels

Drawn = npt.NDArray[Any]  # uint8 or float32


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
            floats = _interpolated(self.normalise(self.image), self.resized)
            out[...] = floats[top : top + height, left : left + width]
        elif self.resized == self.image.shape[:2]:
            out[...] = self.image[top : top + height, left : left + width]
        elif (height, width) == self.resized:
            drawn = cv2.resize(self.image, (width, height), dst=out, interpolation=self._interpolation())
            if drawn.ctypes.data != out.ctypes.data:  # OpenCV allocated a new array
                out[...] = drawn.reshape(out.shape)
        else:
            drawn = cv2.resize(self.image, self.resized[::-1], interpolation=self._interpolation())
            out[...] = drawn[top : top + height, left : left + width].reshape(out.shape)

    def pixels(self) -> Drawn:
        """The visible part as a new array."""
        out: Drawn = np.empty((*self.size, self.image.shape[2]), self.dtype)
        self.draw(out)
        return out

    def _interpolation(self) -> int:
        """OpenCV's interpolation that maps pixel centres to pixel centres and averages when shrinking."""
        shrinks = self.resized[0] < self.image.shape[0] or self.resized[1] < self.image.shape[1]
        return int(cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _interpolated(planes: Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize ``[C, h, w]`` to ``[*size, C]`` by linear interpolation between pixel centres, without averaging."""
    resized = functional.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)
    return np.asarray(resized[0].permute(1, 2, 0).numpy(), np.float32)
