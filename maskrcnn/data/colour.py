"""Random changes of colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from maskrcnn.data.images import Pixels
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class ColourJitter:
    """Random changes of colour, with torchvision's arithmetic.

    Args:
        brightness: the factor is drawn from ``[1 - brightness, 1 + brightness]``.
        contrast: the factor is drawn from ``[1 - contrast, 1 + contrast]``.
        saturation: the factor is drawn from ``[1 - saturation, 1 + saturation]``.
        hue: the hue is rotated by up to this share of the circle, at most 0.5.
        grey: probability of a grey image.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5), ("grey", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"colour.{name} must be in 0..{most}, not {getattr(self, name)}")

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Change the colours of an image ``[H, W, 3]`` uint8."""
        amounts = rng.uniform(-1, 1, 3) * (self.brightness, self.contrast, self.saturation)
        hue, grey = rng.uniform(-1, 1) * self.hue, rng.random() < self.grey
        out = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        changes = functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation
        for amount, change in zip(amounts, changes, strict=True):
            out = change(out, 1 + amount) if amount else out
        if self.hue:
            out = functional.adjust_hue(out, hue)
        if grey:
            out = functional.rgb_to_grayscale(out, num_output_channels=3)
        return np.ascontiguousarray(out.permute(1, 2, 0).numpy())
