"""An augmentation: fewer levels of each colour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from maskrcnn.data.augmentations import Others
from maskrcnn.data.dataset import Example


@dataclass(frozen=True)
class Posterise:
    """Keeps between ``least`` and 8 bits of each channel."""

    least: int = 3

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Draws all random numbers from ``rng``, so that a run resumes exactly."""
        dropped = np.uint8(8 - rng.integers(self.least, 9))
        return replace(example, image=(example.image >> dropped) << dropped)
