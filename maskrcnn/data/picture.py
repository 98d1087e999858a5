"""An image on its way to the network: resized when it is drawn, straight into the batch's canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from maskrcnn.data.images import Pixels
from maskrcnn.structures import Resampling

Drawn = npt.NDArray[Any]  # uint8 or float32


@dataclass(frozen=True)
class Picture:
    """image: ``[h, w, C]`` uint8, recoloured and mirrored already. resized: (height, width) that it gets.
    window: (top, left, height, width), the part of the resized image that is seen. resampling: see ``Preprocessing``.
    """

    image: Pixels
    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    resampling: Resampling = "area"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is seen."""
        return self.window[2:]

    @property
    def dtype(self) -> type[np.uint8] | type[np.float32]:
        """Of what is drawn: uint8, or float32 by ``resampling=float``."""
        return np.float32 if self.resampling == "float" else np.uint8

    def draw(self, out: Drawn) -> None:
        """Write what is seen into ``out``, ``[*size, C]``, which may be a part of a larger array."""
        top, left, height, width = self.window
        if self.resampling == "float":
            out[...] = self._interpolated()[top : top + height, left : left + width]
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

    def _interpolated(self) -> npt.NDArray[np.float32]:
        """The whole resized image as torchvision computes it: linear between pixel centres, without averaging."""
        planes = torch.from_numpy(np.ascontiguousarray(self.image)).permute(2, 0, 1)[None].float()
        resized = functional.interpolate(planes, size=self.resized, mode="bilinear", align_corners=False)
        return np.asarray(resized[0].permute(1, 2, 0).numpy(), np.float32)
