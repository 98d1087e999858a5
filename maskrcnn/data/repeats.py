"""Repeat-factor sampling: repeats images with rare classes (Gupta et al. 2019, LVIS)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import Dataset
from maskrcnn.errors import UserError

_NAMED = 5  # number of classes to name with their shares


@dataclass(frozen=True)
class RepeatFactors:
    """Mean number of repeats of each image per epoch.

    Let f(c) be the share of images with an object of class c. The class has the factor ``max(1, sqrt(threshold /
    f(c)))``, and an image has the largest factor of its classes. Crowds do not count.

    Args:
        of_images: ``[len]``, factor of each image.
        present: ``[len, K]`` bool, the classes of each image.
        names: names of the K classes.
    """

    of_images: npt.NDArray[np.float64]
    present: npt.NDArray[np.bool_]
    names: list[str]

    @classmethod
    def of(cls, dataset: Dataset, threshold: float) -> RepeatFactors:
        """Compute the factors of a data set. Raises UserError for a threshold outside 0..1."""
        if not 0 < threshold <= 1:
            raise UserError(
                f"repeat_threshold={threshold}: expected a share of the images, above 0 and up to 1; classes in fewer "
                "images are repeated"
            )
        present = np.zeros((len(dataset), len(dataset.categories)), np.bool_)
        for index in range(len(dataset)):
            present[index, dataset.labels(index)] = True
        frequency = np.maximum(present.mean(axis=0), 1 / len(dataset))  # a class without images has no effect
        of_classes = np.maximum(1, np.sqrt(threshold / frequency))
        of_images = np.where(present, of_classes, 1).max(axis=1, initial=1)
        return cls(of_images, present, [str(category["name"]) for category in dataset.categories])

    def line(self) -> str:
        """One line with the share of each class before and after, for the classes that change most."""
        before = self.present.mean(axis=0)
        after = self.of_images @ self.present / self.of_images.sum()
        most = np.argsort(-after / np.maximum(before, 1e-12), kind="stable")[:_NAMED]
        shares = ", ".join(f"{self.names[c]} {before[c]:.1%} -> {after[c]:.1%}" for c in most)
        more = f" and {len(self.names) - len(most)} more classes" if len(most) < len(self.names) else ""
        total = f"{self.of_images.sum():.0f} images an epoch instead of {len(self.of_images)}"
        return f"repeat factors: {total}; share of the images with {shares}{more}"
