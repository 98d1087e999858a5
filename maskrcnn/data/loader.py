"""Batches for training and for testing, read ahead by worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskrcnn.data.augmentations.protocol import Others
from maskrcnn.data.canvas import Buckets, Canvas, batch_images
from maskrcnn.data.dataset import Dataset, Example
from maskrcnn.data.images import CorruptImageError, Pixels
from maskrcnn.data.masks import pack
from maskrcnn.data.order import Ticket, TrainOrder, hash_key
from maskrcnn.data.proposals import batch_proposals
from maskrcnn.data.repeats import RepeatFactors
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.data.workers import read_ahead
from maskrcnn.errors import Count, UserError
from maskrcnn.structures import Images, Proposals, Targets


class TrainBatch(NamedTuple):
    """images and targets of a step, and the data set's ids of its images."""

    images: Images
    targets: Targets
    image_ids: list[int]
    proposals: Proposals | None = None


class EvalBatch(NamedTuple):
    """images to be tested, their ids, and (height, width) of each as it lies on disk."""

    images: Images
    image_ids: list[int]
    original_sizes: list[tuple[int, int]]
    proposals: Proposals | None = None


def batch_targets(samples: Sequence[Sample], keys: Sequence[int], with_masks: bool) -> Targets:
    """Ground truth of a batch, padded to G objects: 16, 32, 64, ..., the first that holds them all."""
    num = 16
    while num < max(len(sample.labels) for sample in samples):
        num *= 2
    boxes, labels = torch.zeros(len(samples), num, 4), torch.zeros(len(samples), num, dtype=torch.int64)
    present, crowd = (torch.zeros(len(samples), num, dtype=torch.bool) for _ in range(2))
    for n, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[n, :count] = torch.from_numpy(sample.boxes)
        labels[n, :count] = torch.from_numpy(sample.labels)
        crowd[n, :count] = torch.from_numpy(sample.crowd)
        present[n, :count] = True
    masks = pack([s.masks for s in samples], [s.to_bitmap for s in samples], num) if with_masks else None
    key_tensor = torch.tensor(keys, dtype=torch.int64)
    return Targets(boxes, labels, present & ~crowd, crowd, masks, key_tensor, _keypoints(samples, num))


def _keypoints(samples: Sequence[Sample], num: int) -> Tensor | None:
    """``[N, num, J, 3]``, or None where the data set has no keypoints."""
    given = [sample.keypoints for sample in samples if sample.keypoints is not None]
    if not given:
        return None
    out = torch.zeros(len(samples), num, *given[0].shape[1:])
    for n, points in enumerate(given):
        out[n, : len(points)] = torch.from_numpy(points)
    return out


class TrainLoader:
    """Training batches as a pure function of (seed, step), whatever the number of workers.

    dataset, transform: what to read and what to do with it. batch_size: images of a batch; each step has
    ``accumulate`` batches in each of ``world_size`` processes, ``rank`` being this one. seed: of order and
    augmentation. num_workers: processes that read ahead, 0 reads in this one. size_divisor: the canvas's
    sides are multiples of it. buckets: few sizes of canvas, see ``Canvas``. max_objects: of an image with
    more objects, a random choice of this many is learned from. group_by_aspect: batch wide with wide and
    high with high images. pin_memory: into
    page-locked memory (by default where CUDA is).
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        batch_size: int,
        seed: int = 0,
        num_workers: Count = 0,
        size_divisor: int = 32,
        buckets: Buckets | None = None,
        max_objects: int | None = None,
        group_by_aspect: bool = True,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        pin_memory: bool | None = None,
        repeat_threshold: float | None = None,
    ) -> None:
        portrait = dataset.sizes[:, 0] > dataset.sizes[:, 1]
        self.repeats = None if repeat_threshold is None else RepeatFactors.of(dataset, repeat_threshold)
        repeats = None if self.repeats is None else self.repeats.of_images
        shares = (rank, world_size, accumulate)
        self.order = TrainOrder(portrait & group_by_aspect, batch_size, seed, *shares, repeats)
        crop = (1, 1) if transform.crop is None else (transform.crop[0], transform.crop[1])
        self.canvas = Canvas(size_divisor, crop, buckets)
        self._fetch = _TrainFetch(dataset, transform, self.canvas, max_objects)
        self._num_workers = num_workers
        self._pin_memory = pin_memory

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def batches(self, start_step: int = 0) -> Generator[TrainBatch]:
        """The batches from ``start_step`` on, without end; nothing before it is read.

        Raises BatchError.
        """
        order, seed = self.order, hash_key(self.order.seed, start_step, self.order.rank)
        yield from read_ahead(
            self._fetch, order.from_step(start_step), self._num_workers, self._pin_memory, seed
        )

    def sample(self, index: int, epoch: int) -> Sample:
        """Image ``index`` as training sees it in ``epoch``, which counts from 0."""
        return self._fetch.one(self.order.ticket(epoch, index))


class EvalLoader:
    """Every image of a data set once, in its order, ``batch_size`` at a time; of several processes each
    takes its part of the batches, which are the same for any number of processes. num_images: only the first.

    Arguments as for ``TrainLoader``. Images that cannot be decoded are left out, with a warning, when the
    data set says so. Iterating raises BatchError.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        batch_size: int,
        num_workers: Count = 0,
        size_divisor: int = 32,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool | None = None,
        num_images: int | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        tested = range(len(dataset))[:num_images]
        self._tickets = [
            [Ticket(index, index) for index in tested[begin : begin + batch_size]]
            for begin in range(rank * batch_size, len(tested), world_size * batch_size)
        ]
        if transform.augmentations:
            raise UserError("augmentations are for training: set test_transform.augmentations to null")
        self.transform, self.size_divisor = transform, size_divisor
        self._fetch = _EvalFetch(dataset, transform, Canvas(size_divisor, buckets=buckets))
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._seed = hash_key(0, 0, rank)

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[EvalBatch]:
        tickets = iter(self._tickets)
        for batch in read_ahead(self._fetch, tickets, self._num_workers, self._pin_memory, self._seed):
            if batch.image_ids:
                yield batch

    def images(self) -> Iterator[tuple[int, Pixels]]:
        """The images of this process with their ids, not transformed, one at a time. Raises BatchError."""
        tickets = iter([[ticket] for tickets in self._tickets for ticket in tickets])
        fetch = _ImageFetch(self._fetch.dataset)
        for found in read_ahead(fetch, tickets, self._num_workers, False, self._seed):
            yield from found


# --- in the workers -----------------------------------------------------------------------------------------


def _generator(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(key))


class _TrainFetch(NamedTuple):
    dataset: Dataset
    transform: Transform
    canvas: Canvas
    max_objects: int | None

    def __call__(self, tickets: list[Ticket]) -> TrainBatch:
        samples = [self.one(ticket) for ticket in tickets]
        images = batch_images([sample.picture for sample in samples], self.canvas)
        targets = batch_targets(samples, [ticket.key for ticket in tickets], self.dataset.has_masks)
        proposals = batch_proposals([sample.proposals for sample in samples])
        return TrainBatch(images, targets, [sample.image_id for sample in samples], proposals)

    def one(self, ticket: Ticket) -> Sample:
        others = Others(self._readable, len(self.dataset), self.dataset.has_masks)
        sample = self.transform(self._readable(ticket.place), _generator(ticket.key), others)
        if self.max_objects is None or len(sample.labels) <= self.max_objects:
            return sample
        rng = np.random.Generator(np.random.PCG64([ticket.key, 1]))
        return sample.choose(np.sort(rng.choice(len(sample.labels), self.max_objects, replace=False)))

    def _readable(self, index: int) -> Example:
        """The image, or with ``on_corrupt_image="skip"`` the next one that can be decoded."""
        for offset in range(len(self.dataset)):
            try:
                return self.dataset.read((index + offset) % len(self.dataset))
            except CorruptImageError as error:
                if self.dataset.on_corrupt_image == "stop":
                    raise
                warnings.warn(f"passed over: {error}", stacklevel=2)
        raise UserError(f"not one image in {self.dataset.images} can be decoded")


class _EvalFetch(NamedTuple):
    dataset: Dataset
    transform: Transform
    canvas: Canvas

    def __call__(self, tickets: list[Ticket]) -> EvalBatch:
        samples = [
            self.transform(example, _generator(ticket.key))
            for ticket in tickets
            for example in _evaluated(self.dataset, ticket)
        ]
        if not samples:
            return EvalBatch(Images(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, 2)), [], [])
        images = batch_images([sample.picture for sample in samples], self.canvas)
        proposals = batch_proposals([sample.proposals for sample in samples])
        sizes = [sample.original_size for sample in samples]
        return EvalBatch(images, [sample.image_id for sample in samples], sizes, proposals)


class _ImageFetch(NamedTuple):
    dataset: Dataset

    def __call__(self, tickets: list[Ticket]) -> list[tuple[int, Pixels]]:
        examples = (example for ticket in tickets for example in _evaluated(self.dataset, ticket))
        return [(example.image_id, example.image) for example in examples]


def _evaluated(dataset: Dataset, ticket: Ticket) -> Iterator[Example]:
    """The image of a ticket; none if it cannot be decoded and the data set says to pass over such images."""
    try:
        yield dataset.read(ticket.place)
    except CorruptImageError as error:
        if dataset.on_corrupt_image == "stop":
            raise
        warnings.warn(f"not evaluated: {error}", stacklevel=2)
