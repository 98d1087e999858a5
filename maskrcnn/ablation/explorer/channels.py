"""One channel of a network's features, for an image that moves by fractions of a cell."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

STRIDES = (4, 8, 16, 32)
POSITIONS = 4  # shifts of the image within one cell


@dataclass(frozen=True)
class ChannelMaps:
    """One channel of a network's features at one stride.

    Args:
        name: name of the network, as the page shows it.
        stride: pixels per cell.
        values: ``[POSITIONS + 1, H, W]``, for the image moved right by 0, 1/4, ..., 1 cell.
    """

    name: str
    stride: int
    values: npt.NDArray[np.float16]

    def packed(self) -> dict[str, Any]:
        """JSON for the page's script. The values are little-endian float16 in base64."""
        height, width = self.values.shape[1:]
        data = base64.b64encode(np.ascontiguousarray(self.values, dtype="<f2").tobytes()).decode()
        return {"name": self.name, "stride": self.stride, "height": height, "width": width, "data": data}


def channel_maps(
    name: str, features: Callable[[int], Mapping[int, Tensor]], size: tuple[int, int]
) -> list[ChannelMaps]:
    """Pick the channel with the largest variance at each of the strides 4, 8, 16 and 32 that the network has.

    Args:
        name: name of the network.
        features: returns the features ``[1, C, h, w]`` by stride of the image moved right by a number of pixels.
        size: (height, width) of the image in pixels. Maps are cut to the cells of the image and one more column.
    """
    at = {0: features(0)}
    found = []
    for stride in sorted(stride for stride in at[0] if stride in STRIDES):
        height, width = -(-size[0] // stride), -(-size[1] // stride) + 1
        channel = int(at[0][stride][0, :, :height, :width].float().var(dim=(1, 2)).argmax())
        values = []
        for step in range(POSITIONS + 1):
            shift = stride * step // POSITIONS
            if shift not in at:
                at[shift] = features(shift)
            values.append(at[shift][stride][0, channel, :height, :width].float().cpu().numpy())
        found.append(ChannelMaps(name, stride, np.stack(values).astype(np.float16)))
    return found
