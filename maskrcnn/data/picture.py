"""An image on its way to the network: resized when it is drawn, straight into the batch's canvas."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from maskrcnn.data.images import Pixels


@dataclass(frozen=True)
class Picture:
    """image: ``[h, w, 3]`` uint8 RGB, recoloured and mirrored already. resized: (height, width) that it gets.
    window: (top, left, height, width), the part of the resized image that is seen.
    """

    image: Pixels
    resized: tuple[int, int]
    window: tuple[int, int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is seen."""
        return self.window[2:]

    def draw(self, out: Pixels) -> None:
        """Write what is seen into ``out``, ``[*size, 3]``, which may be a part of a larger array."""
        top, left, height, width = self.window
        if self.resized == self.image.shape[:2]:
            out[...] = self.image[top : top + height, left : left + width]
        elif (height, width) == self.resized:
            drawn = cv2.resize(self.image, (width, height), dst=out, interpolation=self._interpolation())
            if drawn.ctypes.data != out.ctypes.data:  # OpenCV took memory of its own
                out[...] = drawn
        else:
            drawn = cv2.resize(self.image, self.resized[::-1], interpolation=self._interpolation())
            out[...] = drawn[top : top + height, left : left + width]

    def pixels(self) -> Pixels:
        """What is seen, as an array of its own."""
        out = np.empty((*self.size, 3), np.uint8)
        self.draw(out)
        return out

    def _interpolation(self) -> int:
        """Pixel centres map to pixel centres, and shrinking averages what a pixel covers."""
        shrinks = self.resized[0] < self.image.shape[0] or self.resized[1] < self.image.shape[1]
        return int(cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
