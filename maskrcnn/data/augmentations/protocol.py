"""The interface of augmentations, and how a list of them is applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from maskrcnn.data.dataset import Dataset, Example
from maskrcnn.errors import UserError


@runtime_checkable
class Augmentation(Protocol):
    """A random change of a training image and its objects, before it is resized for the network.

    Args:
        example: the image ``[H, W, 3]`` uint8 and its objects in pixels of the image. It must not be changed in place.
        rng: source of all random numbers. It depends on the run's seed, the epoch, the image and the augmentation's
            position in the list, so that a run resumes exactly with any number of workers.
        others: other training images, for augmentations that mix several.
    """

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example: ...


@dataclass(frozen=True)
class Others:
    """The training images, for augmentations that mix several.

    Args:
        read: reads an example by index.
        count: number of images; 0 without a data set.
        has_masks: whether objects of the data set have masks.
        before: augmentations that are applied to a drawn image.
    """

    read: Callable[[int], Example]
    count: int
    has_masks: bool
    before: Sequence[Augmentation] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> Others:
        """The images of a data set."""
        return cls(dataset.read, len(dataset), dataset.has_masks)

    def draw(self, rng: np.random.Generator) -> Example:
        """Return a random image, after the augmentations that are earlier in the list, with its own random values.

        Raises:
            UserError: there is no data set to draw from.
        """
        if not self.count:
            raise UserError(
                "this augmentation mixes several training images, and there is no data set to draw them from; "
                "pass others=Others.of(dataset)"
            )
        return apply(self.before, self.read(int(rng.integers(self.count))), rng, self)


NO_OTHERS = Others(list[Example]().__getitem__, 0, False)


def apply(
    augmentations: Sequence[Augmentation], example: Example, rng: np.random.Generator, others: Others
) -> Example:
    """Apply augmentations in order.

    Each draws from its own generator, so none depends on how many numbers another draws. ``rng`` is not advanced.

    Args:
        augmentations: the list.
        example: the image with its objects.
        rng: decides the seeds of the generators.
        others: other training images.
    """
    generators = rng.spawn(len(augmentations))
    for place, augmentation in enumerate(augmentations):
        others = replace(others, before=augmentations[:place])
        example = augmentation(example, generators[place], others)
        _check(example, augmentation)
    return example


def _check(example: Example, augmentation: Augmentation) -> None:
    """Raise UserError if an augmentation returns something that cannot be trained on."""
    image, count = example.image, len(example.boxes)
    if image.dtype != np.uint8 or image.ndim != 3:
        found = f"an image of {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]"
    elif not count == len(example.labels) == len(example.crowd) == len(example.masks):
        parts = (
            f"{len(example.labels)} labels, {len(example.crowd)} crowd flags and {len(example.masks)} masks"
        )
        found = f"{count} boxes, but {parts}; drop objects by maskrcnn.data.augmentations.objects.chosen"
    else:
        return
    raise UserError(f"the augmentation {augmentation!r} returns {found}")
