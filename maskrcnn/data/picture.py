"""An image on its way to the network: resized when it is drawn, straight into the batch's canvas."""

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
    """Zero mean and unit variance, operation by operation as torchvision's detectors do it.

    mean, std: a number for each channel, of 0..255.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Pixels) -> Tensor:
        """``[h, w, C]`` uint8 to ``[C, h, w]`` float32."""
        mean, std = (torch.tensor([v / 255 for v in values]).view(-1, 1, 1) for values in self)
        planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
        return (planes - mean) / std


@dataclass(frozen=True)
class Picture:
    """image: ``[h, w, C]`` uint8, recoloured and mirrored already. resized: (height, width) that it gets.
    window: (top, left, height, width), the part of the resized image that is seen. normalise: before resizing, both in
    float32 as torchvision does it; None leaves that to the model and rounds to uint8.
    """

    image: Pixels
    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    normalise: Normalise | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is seen."""
        return self.window[2:]

    @property
    def dtype(self) -> type[np.uint8] | type[np.float32]:
        """Of what is drawn: uint8 in 0..255, or float32, normalised."""
        return np.uint8 if self.normalise is None else np.float32

    def draw(self, out: Drawn) -> None:
        """Write what is seen into ``out``, ``[*size, C]``, which may be a part of a larger array."""
        top, left, height, width = self.window
        if self.normalise is not None:
            floats = _interpolated(self.normalise(self.image), self.resized)
            out[...] = floats[top : top + height, left : left + width]
        elif self.resized == self.image.shape[:2]:
            out[...] = self.image[top : top + height, left : left + width]
        elif (height, width) == self.resized:
            drawn = cv2.resize(self.image, (width, height), dst=out, interpolation=self._interpolation())
            if drawn.ctypes.data != out.ctypes.data:  # OpenCV took memory of its own
                out[...] = drawn.reshape(out.shape)
        else:
            drawn = cv2.resize(self.image, self.resized[::-1], interpolation=self._interpolation())
            out[...] = drawn[top : top + height, left : left + width].reshape(out.shape)

    def pixels(self) -> Drawn:
        """What is seen, as an array of its own."""
        out: Drawn = np.empty((*self.size, self.image.shape[2]), self.dtype)
        self.draw(out)
        return out

    def _interpolation(self) -> int:
        """Pixel centres map to pixel centres, and shrinking averages what a pixel covers."""
        shrinks = self.resized[0] < self.image.shape[0] or self.resized[1] < self.image.shape[1]
        return int(cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _interpolated(planes: Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """``[C, h, w]`` to ``[*size, C]``: linear between pixel centres, without averaging."""
    resized = functional.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)
    return np.asarray(resized[0].permute(1, 2, 0).numpy(), np.float32)
