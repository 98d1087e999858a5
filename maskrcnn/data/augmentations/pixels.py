"""Augmentations that only change pixels: colour, blur and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from maskrcnn.data.augmentations.geometry import check_probability
from maskrcnn.data.augmentations.protocol import Others
from maskrcnn.data.colour import ColourJitter
from maskrcnn.data.dataset import Example
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class Colour:
    """Changes colours at random, see `ColourJitter`.

    Args:
        brightness: the factor is drawn from ``[1 - brightness, 1 + brightness]``.
        contrast: the factor is drawn from ``[1 - contrast, 1 + contrast]``.
        saturation: the factor is drawn from ``[1 - saturation, 1 + saturation]``.
        hue: the hue is rotated by up to this share of the circle, at most 0.5.
        grey: probability of a grey image.
        probability: probability of changing an image.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    grey: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        self._jitter()

    def _jitter(self) -> ColourJitter:
        return ColourJitter(self.brightness, self.contrast, self.saturation, self.hue, self.grey)

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Change the colours of the example at random."""
        if rng.random() >= self.probability:
            return example
        return replace(example, image=self._jitter()(example.image, rng))


@dataclass(frozen=True)
class Blur:
    """Blurs the image with a Gaussian.

    Args:
        sigma: range (low, high) of its standard deviation in pixels of the image.
        probability: probability of changing an image.
    """

    sigma: Sequence[float] = (0.3, 1.5)
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        if len(self.sigma) != 2 or not 0 < self.sigma[0] <= self.sigma[1]:
            raise UserError(f"sigma must be two numbers, 0 < low <= high, not {list(self.sigma)}")

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Blur the example at random."""
        low, high = self.sigma
        sigma = rng.uniform(low, high)
        if rng.random() >= self.probability:
            return example
        return replace(example, image=np.asarray(cv2.GaussianBlur(example.image, (0, 0), sigma), np.uint8))


@dataclass(frozen=True)
class Noise:
    """Adds Gaussian noise, independently for each pixel and channel.

    Args:
        sigma: upper limit of its standard deviation, of 0..255.
        probability: probability of changing an image.
    """

    sigma: float = 10.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        if self.sigma < 0:
            raise UserError(f"sigma must be at least 0, not {self.sigma}")

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Add noise to the example at random."""
        sigma = rng.uniform(0, self.sigma)
        if rng.random() >= self.probability:
            return example
        noise = rng.standard_normal(example.image.shape, np.float32) * np.float32(sigma)
        return replace(example, image=(example.image + noise).round().clip(0, 255).astype(np.uint8))
