"""Loads batches for training and testing in worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from maskrcnn.data.augmentations.objects import chosen
from maskrcnn.data.augmentations.protocol import Others
from maskrcnn.data.canvas import Buckets, Canvas, batch_images, batch_proposals, padded
from maskrcnn.data.dataset import Dataset, Example
from maskrcnn.data.images import CorruptImageError, Pixels
from maskrcnn.data.masks import pack
from maskrcnn.data.order import RepeatFactors, Ticket, TrainOrder, hash_key
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.data.workers import read_ahead
from maskrcnn.errors import Count, UserError
from maskrcnn.structures import Images, Proposals, Targets


class TrainBatch(NamedTuple):
    """A batch of training images.

    Attributes:
        images: the images.
        targets: their ground truth.
        image_ids: their ids in the data set.
        proposals: given regions, or None.
    """

    images: Images
    targets: Targets
    image_ids: list[int]
    proposals: Proposals | None = None


class EvalBatch(NamedTuple):
    """A batch of images to evaluate.

    Attributes:
        images: the images.
        image_ids: their ids in the data set.
        original_sizes: (height, width) of each image file.
        proposals: given regions, or None.
    """

    images: Images
    image_ids: list[int]
    original_sizes: list[tuple[int, int]]
    proposals: Proposals | None = None


def batch_targets(samples: Sequence[Sample], keys: Sequence[int], with_masks: bool) -> Targets:
    """Collate ground truth, padded to G objects: the smallest of 16, 32, 64, ... that fits all images.

    Args:
        samples: the images of the batch.
        keys: sampling key of each image, see `Targets`.
        with_masks: whether the data set has masks.
    """
    most = max(len(sample.labels) for sample in samples)
    num = max(16, 1 << (most - 1).bit_length())
    boxes = padded([sample.boxes for sample in samples], num, torch.float32)
    labels = padded([sample.labels for sample in samples], num, torch.int64)
    crowd = padded([sample.crowd for sample in samples], num, torch.bool)
    present = padded([np.ones(len(sample.labels), bool) for sample in samples], num, torch.bool)
    masks = pack([s.masks for s in samples], [s.to_bitmap for s in samples], num) if with_masks else None
    given = [sample.keypoints for sample in samples if sample.keypoints is not None]
    keypoints = padded(given, num, torch.float32) if given else None
    key_tensor = torch.tensor(keys, dtype=torch.int64)
    return Targets(boxes, labels, present & ~crowd, crowd, masks, key_tensor, keypoints)


class TrainLoader:
    """Loads training batches. They are a function of (seed, step) and do not depend on the number of workers.

    Args:
        dataset: the images.
        transform: applied to each image.
        batch_size: images per batch. A step has ``accumulate`` batches in each of ``world_size`` processes.
        seed: seed of order and augmentation.
        num_workers: number of data-loading processes; 0 loads in this process.
        size_divisor: the sides of the canvas are multiples of this.
        buckets: allowed sizes of the canvas, see `Canvas`.
        max_objects: train on a random choice of this many objects of an image; None is all.
        group_by_aspect: batch wide images with wide ones, and tall images with tall ones.
        rank: number of this process.
        world_size: number of processes.
        accumulate: batches per step in each process.
        pin_memory: copy batches to page-locked memory; None does so if CUDA is available.
        repeat_threshold: repeat images with classes that a smaller share of the images has, see `RepeatFactors`; None
            repeats none.
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
        self._num_workers, self._pin_memory = num_workers, pin_memory

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def batches(self, start_step: int = 0) -> Generator[TrainBatch]:
        """Yield batches from ``start_step`` on, without end. Earlier batches are not read.

        Raises:
            BatchError: a batch cannot be loaded.
        """
        seed = hash_key(self.order.seed, start_step, self.order.rank)
        tickets = self.order.from_step(start_step)
        yield from read_ahead(self._fetch, tickets, self._num_workers, self._pin_memory, seed)

    def sample(self, index: int, epoch: int) -> Sample:
        """Load an image as training sees it.

        Args:
            index: index in the data set.
            epoch: counted from 0.
        """
        return self._fetch.one(self.order.ticket(epoch, index))


class EvalLoader:
    """Loads every image of a data set once, in order.

    Each process loads a part of the batches. The batches do not depend on the number of processes. Images that cannot
    be decoded are an error, or left out with a warning, as the data set's ``on_corrupt_image`` says.

    Args:
        dataset: the images.
        transform: applied to each image.
        batch_size: images per batch.
        num_workers: number of data-loading processes; 0 loads in this process.
        size_divisor: the sides of the canvas are multiples of this.
        rank: number of this process.
        world_size: number of processes.
        pin_memory: copy batches to page-locked memory; None does so if CUDA is available.
        num_images: load only the first images; None is all.
        buckets: allowed sizes of the canvas, see `Canvas`.

    Raises:
        BatchError: while iterating, if a batch cannot be loaded.
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
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._seed = hash_key(0, 0, rank)

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[EvalBatch]:
        tickets = iter(self._tickets)
        for batch in read_ahead(self._fetch, tickets, self._num_workers, self._pin_memory, self._seed):
            if batch.image_ids:
                yield batch

    def images(self) -> Iterator[tuple[int, Pixels]]:
        """Yield the images of this process with their ids, one by one and without the transform.

        Raises:
            BatchError: an image cannot be loaded.
        """
        tickets = iter([[ticket] for tickets in self._tickets for ticket in tickets])
        fetch = partial(_images, self._fetch.dataset)
        for found in read_ahead(fetch, tickets, self._num_workers, False, self._seed):
            yield from found


# --- in the workers -----------------------------------------------------------------------------------------


def _generator(key: int | list[int]) -> np.random.Generator:
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
        rng = _generator([ticket.key, 1])
        return chosen(sample, np.sort(rng.choice(len(sample.labels), self.max_objects, replace=False)))

    def _readable(self, index: int) -> Example:
        """Read an image, or with ``on_corrupt_image="skip"`` the next one that can be decoded."""
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
        pairs = [(example, ticket.key) for ticket in tickets for example in _evaluated(self.dataset, ticket)]
        samples = [self.transform(example, _generator(key)) for example, key in pairs]
        if not samples:
            return EvalBatch(Images(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, 2)), [], [])
        images = batch_images([sample.picture for sample in samples], self.canvas)
        proposals = batch_proposals([sample.proposals for sample in samples])
        sizes = [sample.original_size for sample in samples]
        return EvalBatch(images, [sample.image_id for sample in samples], sizes, proposals)


def _images(dataset: Dataset, tickets: list[Ticket]) -> list[tuple[int, Pixels]]:
    examples = (example for ticket in tickets for example in _evaluated(dataset, ticket))
    return [(example.image_id, example.image) for example in examples]


def _evaluated(dataset: Dataset, ticket: Ticket) -> Iterator[Example]:
    """Yield the image of a ticket, or nothing if it cannot be decoded and the data set skips such images."""
    try:
        yield dataset.read(ticket.place)
    except CorruptImageError as error:
        if dataset.on_corrupt_image == "stop":
            raise
        warnings.warn(f"not evaluated: {error}", stacklevel=2)
