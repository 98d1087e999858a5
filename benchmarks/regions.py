"""What the operators are measured on: regions of an 800x1333 image, and the maps of a pyramid over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

IMAGE = (800, 1333)  # height, width
STRIDES = (4, 8, 16, 32)
LAYOUTS = {"channels-last": torch.channels_last, "NCHW": torch.contiguous_format}


def regions(count: int = 512, seed: int = 0) -> Tensor:
    """``[count, 4]`` boxes: square root of area log-uniform in 24..600 pixels, aspect 0.5..2, inside the image."""
    rng = np.random.default_rng(seed)
    side, aspect = np.exp(rng.uniform(np.log(24), np.log(600), count)), np.exp(rng.uniform(-0.7, 0.7, count))
    height, width = IMAGE
    w, h = np.minimum(side * np.sqrt(aspect), width - 1), np.minimum(side / np.sqrt(aspect), height - 1)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return torch.from_numpy(np.stack([x, y, x + w, y + h], 1)).float()


def pyramid(
    channels: int,
    layout: torch.memory_format,
    strides: Sequence[int] = STRIDES,
    images: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[int, Tensor]:
    """Random maps ``[images, channels, H, W]`` by stride."""
    generator = torch.Generator().manual_seed(0)
    size = {s: (-(-IMAGE[0] // s), -(-IMAGE[1] // s)) for s in strides}
    return {
        s: torch.randn(images, channels, *size[s], generator=generator)
        .to(device, dtype)
        .contiguous(memory_format=layout)
        for s in strides
    }
