"""The order of the training images: a function of seed and step, so that a run can resume at any step.

Images with rare classes may be repeated (repeat-factor sampling, Gupta et al. 2019, LVIS).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import Dataset
from maskrcnn.errors import UserError

_MASK = (1 << 64) - 1
_NAMED = 5  # number of classes to name with their shares


class Ticket(NamedTuple):
    """An image of an epoch.

    Attributes:
        place: its index in the data set.
        key: key of all its random numbers, non-negative and below 2^63.
    """

    place: int
    key: int


def hash_key(seed: int, epoch: int, index: int) -> int:
    """Hash three numbers to ``0 .. 2^63 - 1`` (splitmix64, Steele et al. 2014)."""
    state = 0
    for value in (seed, epoch, index):
        state = (state + value + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True, eq=False)
class TrainOrder:
    """Batches without end. Each epoch is a new permutation of the images.

    Images that do not fill the last step of an epoch are left out, different ones in each epoch. A data set smaller
    than a step is repeated to fill it. The images of a step do not depend on the number of processes and parts.

    Args:
        portrait: ``[len]`` bool, taller than wide. As far as possible, a step has one kind, which reduces padding.
        batch_size: images of one part of a step. A step has ``accumulate`` parts in each of ``world_size`` processes.
        seed: seed of the permutations.
        rank: number of this process.
        world_size: number of processes.
        accumulate: parts of a step in each process.
        repeats: ``[len]``, at least 1: mean number of repeats of each image per epoch. Fractions are rounded at
            random. None is 1 for each image.
    """

    portrait: npt.NDArray[np.bool_]
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    repeats: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"the batch size must be at least 1, not {self.batch_size}")

    @property
    def images_per_step(self) -> int:
        return self.batch_size * self.world_size * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        images = len(self.portrait) if self.repeats is None else int(self.repeats.sum())
        return max(images // self.images_per_step, 1)

    def batch(self, step: int, part: int = 0) -> list[Ticket]:
        """This process's images of a part of a step.

        Args:
            step: counted from 0.
            part: counted from 0, below ``accumulate``.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        begin = (self.rank * self.accumulate + part) * self.batch_size
        chosen = _epoch_steps(self, epoch)[place, begin : begin + self.batch_size]
        return [self.ticket(epoch, int(number)) for number in chosen]

    def ticket(self, epoch: int, number: int) -> Ticket:
        """An image in an epoch.

        Args:
            epoch: counted from 0.
            number: its index in the data set, plus ``len`` for each earlier repeat in the epoch.
        """
        return Ticket(number % len(self.portrait), hash_key(self.seed, epoch, number))

    def from_step(self, step: int) -> Iterator[list[Ticket]]:
        """Yield the parts from ``step`` on."""
        while True:
            for part in range(self.accumulate):
                yield self.batch(step, part)
            step += 1


@lru_cache(maxsize=4)
def _epoch_steps(order: TrainOrder, epoch: int) -> npt.NDArray[np.int64]:
    """All images of an epoch, as numbers of `TrainOrder.ticket`, ``[steps, images_per_step]``."""
    rng = np.random.Generator(np.random.PCG64(hash_key(order.seed, epoch, _MASK >> 1)))
    size = order.images_per_step
    count = len(order.portrait)
    images = rng.permutation(count)
    if order.repeats is not None:
        images = rng.permutation(repeated(images, order.repeats, rng.random()))
    images = np.resize(images, order.steps_per_epoch * size)  # drop the remainder, or repeat
    portrait = order.portrait[images % count]
    groups = [images[portrait], images[~portrait]]
    whole = [group[: len(group) // size * size] for group in groups]
    rest = [group[len(part) :] for group, part in zip(groups, whole, strict=True)]
    steps = np.concatenate([*whole, *rest]).reshape(-1, size)
    return steps[rng.permutation(len(steps))]


def repeated(
    images: npt.NDArray[np.int64], repeats: npt.NDArray[np.float64], offset: float
) -> npt.NDArray[np.int64]:
    """Repeat images. Fractions are rounded up at random, with their own probability.

    Systematic rounding: the running sum of the repeats plus ``offset`` is rounded down. In every epoch, the total
    number of images is then the sum of the repeats, rounded down or up.

    Args:
        images: ``[len]``, a random permutation.
        repeats: ``[len]``, for image 0, 1, ...
        offset: uniform in 0..1.

    Returns:
        ``image + len * n`` for the n-th repeat of an image, n from 0.
    """
    ends = np.floor(np.cumsum(repeats[images]) + offset).astype(np.int64)
    times = np.diff(ends, prepend=0)
    begins = np.repeat(ends - times, times)
    return np.repeat(images, times) + len(images) * (np.arange(len(begins)) - begins)


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
