"""Repeat-factor sampling against factors worked out by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.data.adapter import adapt
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.loader import TrainLoader
from maskrcnn.data.order import RepeatFactors, TrainOrder, repeated
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError

from .conftest import annotation

Write = Callable[..., tuple[Path, Path]]
CLASSES = [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}, {"id": 5, "name": "rarer"}]


@pytest.fixture
def dataset(write_coco: Write) -> CocoDataset:
    """16 images: class 1 in 1..12, class 2 in 1..4, class 5 in 4, a crowd of class 5 in 9, nothing in 13..16."""
    some = [annotation(n, n, 1) for n in range(1, 13)]
    some += [annotation(20 + n, n, 2) for n in range(1, 5)] + [annotation(30, 1, 2)]
    some += [annotation(40, 4, 5), annotation(41, 9, 5, iscrowd=1)]
    return CocoDataset(*write_coco(some, ((40, 60),) * 16, CLASSES))


def test_the_factors_are_those_worked_out_by_hand(dataset: CocoDataset) -> None:
    # f = 12/16, 4/16, 1/16; with t = 1/2 the factors are 1, sqrt(2) and sqrt(8).
    factors = RepeatFactors.of(dataset, 0.5)
    expected = [2**0.5] * 3 + [8**0.5] + [1.0] * 12
    np.testing.assert_allclose(factors.of_images, expected)
    total = sum(expected)
    rare, rarer = (3 * 2**0.5 + 8**0.5) / total, 8**0.5 / total
    common = (3 * 2**0.5 + 8**0.5 + 8) / total
    assert factors.line() == (
        f"repeat factors: {total:.0f} images an epoch instead of 16; share of the images with "
        f"rarer 6.2% -> {rarer:.1%}, rare 25.0% -> {rare:.1%}, common 75.0% -> {common:.1%}"
    )


def test_an_epoch_has_each_image_as_often_as_its_factor_on_average(dataset: CocoDataset) -> None:
    loader = TrainLoader(dataset, Transform(), 1, seed=3, repeat_threshold=0.5)
    expected = [2**0.5] * 3 + [8**0.5] + [1.0] * 12
    assert loader.steps_per_epoch == int(sum(expected)) == 19
    counts: Counter[int] = Counter()
    epochs = 2000
    for epoch in range(epochs):
        seen: Counter[int] = Counter()
        for step in range(19):
            ((place, _),) = loader.order.batch(19 * epoch + step)
            seen[place] += 1
        # At most one image, which does not fill a step, sits out.
        assert sum(seen.values()) == 19
        for place, factor in enumerate(expected):
            assert int(factor) - 1 <= seen[place] <= int(np.ceil(factor))
        counts += seen
    # Of 19.07 images that are drawn on average one sits out in 7 % of the epochs.
    for place, factor in enumerate(expected):
        share = factor * 19 / sum(expected)
        assert counts[place] / epochs == pytest.approx(share, abs=5 * 0.5 / epochs**0.5)


def test_rounding_is_up_as_often_as_the_fraction_says() -> None:
    repeats = np.array([1.0, 1.25, 2.5, 1.75, 3.0])
    rng = np.random.default_rng(0)
    counts, totals = np.zeros(5), set()
    for _ in range(4000):
        drawn = repeated(rng.permutation(5), repeats, rng.random())
        found = np.bincount(drawn % 5, minlength=5)
        assert ((found >= np.floor(repeats)) & (found <= np.ceil(repeats))).all()
        assert len(set(drawn.tolist())) == len(drawn)  # each time is numbered
        counts += found
        totals.add(len(drawn))
    assert totals == {9, 10}
    np.testing.assert_allclose(counts / 4000, repeats, atol=0.04)


def test_each_time_an_image_comes_it_has_random_numbers_of_its_own(dataset: CocoDataset) -> None:
    order = TrainLoader(dataset, Transform(), 1, repeat_threshold=0.5).order
    tickets = [ticket for step in range(19) for ticket in order.batch(step)]
    assert len({ticket.place for ticket in tickets}) < 19
    assert len({ticket.key for ticket in tickets}) == 19


@pytest.mark.parametrize("num_workers", [0, 2])
def test_it_is_a_function_of_seed_and_step(dataset: CocoDataset, num_workers: int) -> None:
    def ids(start: int, number: int, **settings: int) -> list[list[int]]:
        loader = TrainLoader(dataset, Transform(), 2, seed=5, repeat_threshold=0.5, **settings)
        return [batch.image_ids for batch in islice(loader.batches(start), number)]

    whole = ids(0, 30)
    assert ids(17, 13, num_workers=num_workers) == whole[17:]


def test_steps_do_not_depend_on_processes_and_parts(dataset: CocoDataset) -> None:
    repeats = RepeatFactors.of(dataset, 0.5).of_images
    portrait = np.arange(16) % 3 == 0

    def step(number: int, batch: int, world: int, accumulate: int) -> list[tuple[int, int]]:
        return [
            ticket
            for rank in range(world)
            for part in range(accumulate)
            for ticket in TrainOrder(portrait, batch, 1, rank, world, accumulate, repeats).batch(number, part)
        ]

    for number in (0, 5, 23):
        assert step(number, 4, 1, 1) == step(number, 2, 2, 1) == step(number, 1, 2, 2)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5])
def test_a_threshold_that_is_no_share_is_refused(dataset: CocoDataset, threshold: float) -> None:
    with pytest.raises(UserError, match="expected a share of the images"):
        TrainLoader(dataset, Transform(), 1, repeat_threshold=threshold)


def test_classes_without_images_and_images_without_objects_are_not_repeated(write_coco: Write) -> None:
    dataset = CocoDataset(*write_coco([annotation(1, 1, 1)], categories=CLASSES))
    np.testing.assert_allclose(RepeatFactors.of(dataset, 1.0).of_images, [3**0.5, 1, 1])


def test_the_labels_of_a_torchvision_data_set_count_too() -> None:
    def sample(labels: list[int], crowd: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        boxes = torch.tensor([[1.0, 1, 9, 9]] * len(labels)).reshape(-1, 4)
        target = {"boxes": boxes, "labels": torch.tensor(labels), "iscrowd": torch.tensor(crowd)}
        return torch.zeros(3, 10, 10, dtype=torch.uint8), target

    samples = [sample([1, 1], [0, 0]), sample([1, 2], [0, 0]), sample([2], [1]), sample([1], [0])]
    factors = RepeatFactors.of(adapt(samples, 2), 0.5)
    np.testing.assert_allclose(factors.of_images, [1, 2**0.5, 1, 1])
