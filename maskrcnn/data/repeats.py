"""Repeat-factor sampling: images with rare classes come more often (Gupta et al. 2019, LVIS)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import Dataset
from maskrcnn.errors import UserError

_NAMED = 5  # classes that are named with their shares


@dataclass(frozen=True)
class RepeatFactors:
    """How often an epoch has each image, on average.

    With f(c) the share of the images that have an object of class c, the class has the factor
    ``max(1, sqrt(threshold / f(c)))``, and an image the largest factor of its classes. Crowds do not count.

    Args:
        of_images: ``[len]``.
        present: ``[len, K]`` bool, the classes of each image.
        names: of the K classes.
    """

    of_images: npt.NDArray[np.float64]
    present: npt.NDArray[np.bool_]
    names: list[str]

    @classmethod
    def of(cls, dataset: Dataset, threshold: float) -> RepeatFactors:
        """The factors of a data set. Raises UserError for a threshold that is no share of the images."""
        if not 0 < threshold <= 1:
            raise UserError(
                f"repeat_threshold={threshold}: expected a share of the images, above 0 and up to 1; classes in fewer "
                "images are repeated"
            )
        present = np.zeros((len(dataset), len(dataset.categories)), np.bool_)
        for index in range(len(dataset)):
            present[index, dataset.labels(index)] = True
        frequency = np.maximum(
            present.mean(axis=0), 1 / len(dataset)
        )  # a class without an image repeats none
        of_classes = np.maximum(1, np.sqrt(threshold / frequency))
        of_images = np.where(present, of_classes, 1).max(axis=1, initial=1)
        return cls(of_images, present, [str(category["name"]) for category in dataset.categories])

    def line(self) -> str:
        """The classes' shares of the images before and after, in one line: those that change the most first."""
        before = self.present.mean(axis=0)
        after = self.of_images @ self.present / self.of_images.sum()
        most = np.argsort(-after / np.maximum(before, 1e-12), kind="stable")[:_NAMED]
        shares = ", ".join(f"{self.names[c]} {before[c]:.1%} -> {after[c]:.1%}" for c in most)
        more = f" and {len(self.names) - len(most)} more classes" if len(most) < len(self.names) else ""
        total = f"{self.of_images.sum():.0f} images an epoch instead of {len(self.of_images)}"
        return f"repeat factors: {total}; share of the images with {shares}{more}"
