"""Batches: the same whatever the workers, taken up anywhere, padded as promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from maskrcnn.data.augmentations import PRESETS, CopyPaste, Flip, Mosaic, QuarterTurns
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.loader import EvalLoader, TrainBatch, TrainLoader
from maskrcnn.data.transforms import Transform
from maskrcnn.data.workers import read_ahead
from maskrcnn.errors import UserError

from .conftest import annotation

Write = Callable[..., tuple[Path, Path]]
SIZES = ((40, 60), (60, 40), (48, 48), (30, 70), (70, 30), (64, 33), (50, 51))


def some_annotations() -> list[dict[str, Any]]:
    return [annotation(n, image_id=1 + n % 6, bbox=[2 + n, 3, 8, 9 + n]) for n in range(1, 15)]


@pytest.fixture
def dataset(write_coco: Write) -> CocoDataset:
    return CocoDataset(*write_coco(some_annotations(), SIZES))


def flat(batch: TrainBatch) -> list[torch.Tensor]:
    t = batch.targets
    assert t.masks is not None
    masks = [t.masks.bits, t.masks.offset, t.masks.size, t.masks.to_bitmap]
    return [batch.images.pixels, batch.images.sizes, t.boxes, t.labels, t.valid, t.crowd, t.keys, *masks]


def assert_equal(one: TrainBatch, other: TrainBatch) -> None:
    assert one.image_ids == other.image_ids
    for a, b in zip(flat(one), flat(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


TRANSFORM = Transform(short_side=[40, 50], crop=(36, 36), horizontal_flip=0.5, vertical_flip=0.5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_taken_up_at_a_step_continues_exactly(dataset: CocoDataset, num_workers: int) -> None:
    whole = list(islice(TrainLoader(dataset, TRANSFORM, 2, seed=5).batches(), 9))
    resumed = TrainLoader(dataset, TRANSFORM, 2, seed=5, num_workers=num_workers).batches(4)
    for expected, batch in zip(whole[4:], resumed, strict=False):
        assert_equal(expected, batch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_draws_none_of_the_models_random_numbers(dataset: CocoDataset, num_workers: int) -> None:
    """A resumed run begins to read once more often, and must still draw the same for its stochastic depth."""
    before = torch.get_rng_state()
    next(TrainLoader(dataset, TRANSFORM, 2, num_workers=num_workers).batches())
    list(EvalLoader(dataset, Transform(), 2, num_workers=num_workers))
    assert torch.equal(before, torch.get_rng_state())


LIST = [*PRESETS["strong"], Flip(), CopyPaste(), QuarterTurns(), Mosaic(0.3), v2.RandomCrop((30, 30))]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmented_images_are_a_function_of_seed_and_step(dataset: CocoDataset, num_workers: int) -> None:
    transform = replace(TRANSFORM, augmentations=LIST)
    whole = list(islice(TrainLoader(dataset, transform, 2, seed=5).batches(), 9))
    resumed = TrainLoader(dataset, transform, 2, seed=5, num_workers=num_workers).batches(4)
    for expected, batch in zip(whole[4:], resumed, strict=False):
        assert_equal(expected, batch)
    other = next(TrainLoader(dataset, transform, 2, seed=6).batches())
    assert not torch.equal(other.images.pixels, whole[0].images.pixels)
    # A sample that is asked for alone is that of the batch.
    loader = TrainLoader(dataset, transform, 2, seed=5)
    for step in (0, 4):
        for row, ticket in enumerate(loader.order.batch(step)):
            sample = loader.sample(ticket.place, step // loader.steps_per_epoch)
            height, width = sample.pixels.shape[:2]
            pixels = whole[step].images.pixels[row, :, :height, :width].permute(1, 2, 0)
            np.testing.assert_array_equal(sample.pixels, pixels)


# Pinned, so that runs resume and results repeat.
PINNED_IDS = [[5, 6], [3, 7], [4, 1], [2, 3]]
PINNED_KEYS = [4029805349729702739, 2618589686122658568, 5099857108261823092, 8909566504232841948]
PINNED_SUMS = [105.1809, 222.5, 164.0, 395.7917]


def test_the_numbers_of_a_run_without_augmentations_stay(dataset: CocoDataset) -> None:
    batches = list(islice(TrainLoader(dataset, TRANSFORM, 2, seed=5).batches(), 4))
    assert [batch.image_ids for batch in batches] == PINNED_IDS
    assert [int(key) for batch in batches[:2] for key in batch.targets.keys] == PINNED_KEYS
    assert [batch.targets.boxes.sum().item() for batch in batches] == pytest.approx(PINNED_SUMS, rel=1e-6)


def test_a_test_transform_has_no_augmentations(dataset: CocoDataset) -> None:
    with pytest.raises(UserError, match=r"test_transform\.augmentations to null"):
        EvalLoader(dataset, Transform(augmentations="light"), 1)


def worker_seed(tickets: object) -> int:
    return torch.initial_seed()


def test_what_a_transform_may_draw_in_a_worker_depends_on_the_loaders_seed_alone() -> None:
    def seeds(seed: int) -> list[int]:
        torch.seed()
        return list(read_ahead(worker_seed, iter([[], []]), 2, False, seed))

    first = seeds(1)
    assert first == seeds(1)
    assert len({*first, *seeds(2)}) == 4


def test_another_seed_or_epoch_gives_other_pictures(dataset: CocoDataset) -> None:
    first = next(TrainLoader(dataset, TRANSFORM, 7, seed=5).batches())
    other_seed = next(TrainLoader(dataset, TRANSFORM, 7, seed=6).batches())
    other_epoch = next(TrainLoader(dataset, TRANSFORM, 7, seed=5).batches(1))
    assert sorted(first.image_ids) == sorted(other_seed.image_ids) == sorted(other_epoch.image_ids)
    keys = [set(batch.targets.keys.tolist()) for batch in (first, other_seed, other_epoch)]
    assert len(set.union(*keys)) == 21
    assert min(set.union(*keys)) >= 0


def test_padding_and_validity(write_coco: Write) -> None:
    crowd = annotation(90, image_id=2, iscrowd=1)
    many = [annotation(100 + n, image_id=1) for n in range(17)]
    dataset = CocoDataset(*write_coco([crowd, *many], ((40, 60), (60, 40), (48, 48))))
    batch = next(TrainLoader(dataset, Transform(), 3, group_by_aspect=False).batches())
    assert batch.images.pixels.shape == (3, 3, 64, 64)
    assert batch.images.pixels.dtype == torch.uint8
    assert batch.targets.boxes.shape == (3, 32, 4)
    for n, image_id in enumerate(batch.image_ids):
        height, width = batch.images.sizes[n].long().tolist()
        assert (height, width) == {1: (40, 60), 2: (60, 40), 3: (48, 48)}[image_id]
        assert batch.images.pixels[n, :, height:].sum() == 0
        assert batch.images.pixels[n, :, :, width:].sum() == 0
        image = dataset.read(image_id - 1).image
        np.testing.assert_array_equal(batch.images.pixels[n, :, :height, :width].permute(1, 2, 0), image)
        assert int(batch.targets.valid[n].sum()) == {1: 17, 2: 0, 3: 0}[image_id]
        assert int(batch.targets.crowd[n].sum()) == {1: 0, 2: 1, 3: 0}[image_id]


def test_keypoints_reach_the_targets(write_coco: Write) -> None:
    person = {"id": 3, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}
    points = [10, 9, 2, 12, 8, 1, 0, 0, 0]
    some = [annotation(1, keypoints=points), annotation(2, image_id=2, keypoints=points), annotation(3)]
    some.append(annotation(4, image_id=2, category_id=7))
    path, folder = write_coco(some, categories=[person, {"id": 7, "name": "dog"}])
    dataset = CocoDataset(path, folder)
    transform = Transform(short_side=80, horizontal_flip=1.0)
    batch = next(TrainLoader(dataset, transform, 3, group_by_aspect=False).batches())
    found = batch.targets.keypoints
    assert found is not None
    assert found.shape == (3, 16, 3, 3)
    # Image 1 is 60 wide and doubled, image 2 is 40 wide and enlarged by 2: mirrored, left becomes right.
    for image_id, width in ((1, 120), (2, 80)):
        row = batch.image_ids.index(image_id)
        expected = torch.zeros(16, 3, 3)
        expected[0] = torch.tensor([[width - 21, 19, 2], [0, 0, 0], [width - 25, 17, 1]])
        torch.testing.assert_close(found[row], expected)
    assert not found[batch.image_ids.index(3)].any()
    assert next(TrainLoader(CocoDataset(*write_coco([])), Transform(), 1).batches()).targets.keypoints is None


def test_a_limit_on_objects_chooses_at_random_but_the_same_each_time(write_coco: Write) -> None:
    many = [annotation(n, bbox=[n, 3, 8, 9]) for n in range(1, 30)]
    dataset = CocoDataset(*write_coco(many, ((40, 60),)))
    steps = [next(TrainLoader(dataset, Transform(), 1, max_objects=5).batches(s)).targets for s in (0, 1, 0)]
    assert all(int(t.valid.sum()) == 5 for t in steps)
    assert set(steps[0].boxes[0, :5, 0].tolist()) <= {float(n) for n in range(1, 30)}
    assert not torch.equal(steps[0].boxes, steps[1].boxes)
    torch.testing.assert_close(steps[0].boxes, steps[2].boxes)


def test_every_image_is_tested_once_by_all_processes_together(dataset: CocoDataset) -> None:
    seen: list[int] = []
    for rank in range(3):
        for images, ids, sizes, _ in EvalLoader(
            dataset, Transform(short_side=20), 2, rank=rank, world_size=3
        ):
            assert len(images.pixels) == len(ids) == len(sizes) <= 2
            assert [SIZES[i - 1] for i in ids] == sizes
            assert (images.sizes.min(dim=1).values == 20).all()
            seen += ids
    assert sorted(seen) == list(range(1, 8))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_stops_or_is_passed_over(dataset: CocoDataset, num_workers: int) -> None:
    broken = dataset.images / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    loader = TrainLoader(dataset, Transform(), 7, num_workers=num_workers)
    with pytest.raises(UserError, match=r"3\.png is damaged.*on_corrupt_image=skip") as caught:
        next(loader.batches())
    assert "Traceback" not in str(caught.value)
    dataset.on_corrupt_image = "skip"
    batch = next(TrainLoader(dataset, Transform(), 7).batches())
    assert sorted(batch.image_ids) == [1, 2, 4, 4, 5, 6, 7]
    tested = [i for batch in EvalLoader(dataset, Transform(), 1) for i in batch.image_ids]
    assert tested == [1, 2, 4, 5, 6, 7]


def test_no_readable_image_at_all_is_said(dataset: CocoDataset) -> None:
    for path in dataset.images.iterdir():
        path.write_bytes(b"no image")
    dataset.on_corrupt_image = "skip"
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(UserError, match="not one image"):
        next(TrainLoader(dataset, Transform(), 2).batches())


def shapes_of(dataset: CocoDataset, **settings: Any) -> set[tuple[int, ...]]:
    """The canvases of an epoch of batches of one image."""
    transform = Transform(short_side=[200, 230, 260], max_size=400)
    loader = TrainLoader(dataset, transform, 1, **settings)
    batches = [batch for _, batch in zip(range(3 * loader.steps_per_epoch), loader.batches(), strict=False)]
    for batch in batches:
        assert (batch.images.sizes[0] <= torch.tensor(batch.images.pixels.shape[2:])).all()
    return {tuple(batch.images.pixels.shape[2:]) for batch in batches}


def test_buckets_make_few_canvases(write_coco: Write) -> None:
    rng = np.random.default_rng(0)
    sizes = tuple((int(h), int(w)) for h, w in rng.integers(40, 80, (30, 2)))
    dataset = CocoDataset(*write_coco(some_annotations(), sizes))
    every = shapes_of(dataset)
    assert len(every) > 15
    coarse = shapes_of(dataset, buckets=128)
    assert coarse <= {(h, w) for h in (256, 384, 512) for w in (256, 384, 512)}
    assert len(coarse) <= len(every) / 3
    assert shapes_of(dataset, buckets=[[288, 416], [416, 288], [416, 416]]) <= {(288, 416), (416, 288)}
    # One that fits in none has a canvas of its own.
    assert (288, 416) in (some := shapes_of(dataset, buckets=[[288, 416]]))
    assert len(some) > 1


@pytest.mark.parametrize("buckets", [100, 0, [[64, 100]], [[64]], [[64, 64, 64]]])
def test_buckets_that_are_no_canvases_are_refused(dataset: CocoDataset, buckets: Any) -> None:
    with pytest.raises(UserError, match="expected a multiple of size_divisor=32, or a list of sizes"):
        TrainLoader(dataset, Transform(), 1, buckets=buckets)
