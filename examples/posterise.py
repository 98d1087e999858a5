"""An augmentation: fewer levels of each colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Posterise:
    """Keeps between ``least`` and 8 bits of each channel."""

    least: int = 3

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """The image ``[H, W, 3]``. Everything random is drawn from ``rng``, so that a run resumes exactly."""
        dropped = 8 - rng.integers(self.least, 9)
        return (image >> dropped) << dropped
