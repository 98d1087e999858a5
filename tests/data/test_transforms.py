"""Geometry against pictures: what the transforms say of boxes, masks and points must be where the pixels
went.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from maskrcnn.config.compose import build, compose_config
from maskrcnn.data.colour import ColourJitter
from maskrcnn.data.dataset import Example
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.masks import crop_to_object, pack
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.errors import UserError
from maskrcnn.models.heads.mask import mask_targets
from maskrcnn.structures import Preprocessing


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def example_of(masks: list[np.ndarray], keypoints: np.ndarray | None = None) -> Example:
    """An example whose image shows the masks: object g has the grey value 40 * (g + 1)."""
    image = np.zeros((*masks[0].shape, 3), np.uint8)
    boxes = []
    for g, mask in enumerate(masks):
        image[mask != 0] = 40 * (g + 1)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return Example(
        image=image,
        image_id=1,
        boxes=np.array(boxes, np.float32),
        labels=np.arange(len(masks)),
        crowd=np.zeros(len(masks), bool),
        masks=[crop_to_object(mask) for mask in masks],
        keypoints=keypoints,
    )


def seen_mask(sample: Sample, g: int, window: tuple[int, int, int] | None = None) -> np.ndarray:
    """Object g's mask at every pixel of the network's input, by way of the mask targets.

    window: (x, y, side) of a square to look at instead of everything.
    """
    height, width = sample.pixels.shape[:2]
    x, y, side = window or (0, 0, max(height, width))
    box = torch.tensor([[[x, y, x + side, y + side]]], dtype=torch.float32)
    packed = pack([[sample.masks[g]]], [sample.to_bitmap[g : g + 1]], 1)
    targets = mask_targets(packed, box, torch.zeros(1, 1, dtype=torch.int64), side)[0, 0]
    return targets.numpy()[: height - y, : width - x].astype(np.uint8)


def tight(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def blocks(seed: int) -> list[np.ndarray]:
    """Objects of odd outlines that do not overlap."""
    masks, taken = [], np.zeros((40, 56), bool)
    for x, y, w, h in ((3, 4, 20, 9), (30, 2, 11, 30), (5, 20, 17, 15)):
        mask = np.zeros((40, 56), np.uint8)
        mask[y : y + h, x : x + w] = rng(seed).random((h, w)) < 0.8
        mask[taken] = 0
        taken |= mask != 0
        masks.append(mask)
    return masks


@pytest.mark.parametrize("flips", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("crop", [None, (25, 30), (64, 64)])
@pytest.mark.parametrize("short_side", [None, 80, 120])
def test_masks_are_read_where_the_pixels_went(
    flips: tuple[int, int], crop: tuple[int, int] | None, short_side: int | None
) -> None:
    """Whole-number enlargement repeats pixels, so that the picture itself tells where each mask is."""
    masks = blocks(1)
    transform = Transform(short_side=short_side, crop=crop, horizontal_flip=flips[0], vertical_flip=flips[1])
    sample = transform(example_of(masks), rng(3))
    factor = 1 if short_side is None else short_side // 40
    for g, label in enumerate(sample.labels):
        whole = np.repeat(np.repeat(masks[label], factor, axis=0), factor, axis=1)
        whole = whole[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
        seen = seen_mask(sample, g)
        height, width = seen.shape
        places = [
            (top, left)
            for top in range(whole.shape[0] - height + 1)
            for left in range(whole.shape[1] - width + 1)
            if np.array_equal(whole[top : top + height, left : left + width], seen)
        ]
        assert places
        if factor == 1:  # without interpolation the object is where its colour is
            np.testing.assert_array_equal(sample.pixels[..., 0] == 40 * (label + 1), seen != 0)
        np.testing.assert_allclose(sample.boxes[g], tight(seen), atol=1e-3)


def test_boxes_follow_a_resize_that_is_no_whole_number() -> None:
    example = example_of(blocks(0))
    sample = Transform(short_side=97, max_size=110)(example, rng())
    assert sample.pixels.shape == (79, 110, 3)  # 40 x 56 times 110 / 56, rounded
    assert sample.original_size == (40, 56)
    scale = np.array([110 / 56, 79 / 40] * 2)
    np.testing.assert_allclose(sample.boxes, example.boxes * scale, rtol=1e-5)


def test_keeping_the_size_keeps_the_pixels() -> None:
    example = example_of(blocks(0))
    sample = Transform()(example, rng())
    np.testing.assert_array_equal(sample.pixels, example.image)
    np.testing.assert_array_equal(sample.boxes, example.boxes)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_flipping_twice_gives_the_same(seed: int) -> None:
    example = example_of(blocks(seed))
    flip = Transform(horizontal_flip=1.0, vertical_flip=1.0)
    once = flip(example, rng())
    twice = flip(
        Example(once.pixels, 1, once.boxes, once.labels, once.crowd, [None] * 3, once.keypoints), rng()
    )
    np.testing.assert_array_equal(twice.pixels, example.image)
    np.testing.assert_allclose(twice.boxes, example.boxes, atol=1e-4)


def test_objects_outside_of_a_crop_are_left_out_and_cut_boxes_fit_what_is_seen() -> None:
    mask = np.zeros((50, 50), np.uint8)
    mask[10, 5:45] = 1  # a thin bar ...
    mask[10:40, 44] = 1  # ... and a thin post: a gallows whose box is mostly empty
    corner = np.zeros((50, 50), np.uint8)
    corner[42:, 38:] = 1
    seen_labels, cut = set(), 0
    for seed in range(60):
        sample = Transform(crop=(20, 20))(example_of([mask, corner]), rng(seed))
        for g, label in enumerate(sample.labels):
            seen = seen_mask(sample, g)
            np.testing.assert_allclose(sample.boxes[g], tight(seen), atol=1e-4)
            cut += int(label == 0)
        visible = {int(v) // 40 - 1 for v in np.unique(sample.pixels[..., 0]) if v}
        assert visible == set(sample.labels.tolist())
        seen_labels |= visible
    assert seen_labels == {0, 1}
    assert cut > 10


def test_a_box_wider_than_its_mask_keeps_its_margin_on_uncut_sides() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 20:40] = 1
    example = example_of([mask])
    example.boxes[:] = [17, 18, 43, 42]  # as with VOC's void border
    for seed in range(40):
        sample = Transform(crop=(60, 30))(example, rng(seed))
        if len(sample.labels) == 0:
            continue
        x1, y1, x2, y2 = sample.boxes[0]
        left, _, right, _ = tight(seen_mask(sample, 0))
        assert (y1, y2) == (18, 42)
        assert x1 == (0 if left == 0 else max(left - 3, 0))
        assert x2 == (30 if right == 30 else min(right + 3, 30))


def test_objects_without_masks_are_cut_by_their_boxes() -> None:
    example = example_of(blocks(0))
    bare = Example(example.image, 1, example.boxes, example.labels, example.crowd, [None] * 3)
    for seed in range(20):
        sample = Transform(crop=(16, 16))(bare, rng(seed))
        shift = -sample.to_bitmap[0, 2:] if len(sample.to_bitmap) else np.zeros(2)
        for g, label in enumerate(sample.labels):
            expected = (example.boxes[label].reshape(2, 2) + shift).clip(0, 16).reshape(4)
            np.testing.assert_allclose(sample.boxes[g], expected)


def test_a_mirror_exchanges_left_and_right_keypoints() -> None:
    points = np.array([[[10.5, 5.5, 2], [20.5, 6.5, 1], [0, 0, 0]]], np.float32)
    example = example_of(blocks(0)[:1], points)
    sample = Transform(short_side=80, horizontal_flip=1.0, flip_keypoints=[1, 0, 2])(example, rng())
    expected = [[2 * (56 - 20.5), 13, 1], [2 * (56 - 10.5), 11, 2], [0, 0, 0]]
    assert sample.keypoints is not None
    np.testing.assert_allclose(sample.keypoints[0], expected)


@pytest.mark.parametrize("flips", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("settings", [{"short_side": 80}, {"crop": (64, 64), "scale_jitter": (1.5, 1.5)}])
def test_keypoints_lie_on_their_pixels_and_sides_are_exchanged_by_one_mirror_not_by_two(
    flips: tuple[int, int], settings: dict[str, Any]
) -> None:
    """Each keypoint is a patch of its own grey, so the picture itself tells where it went."""
    places = [(10, 6), (30, 6), (20, 24)]  # left, right, middle
    image = np.zeros((40, 56, 3), np.uint8)
    for k, (x, y) in enumerate(places):
        image[y - 3 : y + 3, x - 3 : x + 3] = 80 * (k + 1)
    points = np.array([[[x, y, 2] for x, y in places]], np.float32)
    example = replace(example_of([np.ones((40, 56), np.uint8)], points), mirror_keypoints=[1, 0, 2])
    example = replace(example, image=image)
    transform = Transform(**settings, horizontal_flip=flips[0], vertical_flip=flips[1])
    sample = transform(example, rng(4))
    order = [1, 0, 2] if flips in ((1, 0), (0, 1)) else [0, 1, 2]
    assert sample.keypoints is not None
    assert sample.keypoints[0, :, 2].sum() >= 4
    for k, (x, y, visibility) in enumerate(sample.keypoints[0]):
        if visibility == 0:
            continue
        rows, columns = np.mgrid[: sample.pixels.shape[0], : sample.pixels.shape[1]]
        near = (np.abs(columns + 0.5 - x) < 3) & (np.abs(rows + 0.5 - y) < 3)
        assert near.sum() >= 12  # fewer than 36 at an edge
        assert (np.abs(sample.pixels[near][:, 0].astype(int) - 80 * (order[k] + 1)) < 20).all()


def test_a_wrong_order_of_keypoints_is_refused() -> None:
    example = example_of(blocks(0)[:1], np.zeros((1, 3, 3), np.float32))
    with pytest.raises(
        UserError, match=r"flip_keypoints=\[1, 0\] must name each of the data set's 3 keypoints"
    ):
        Transform(horizontal_flip=1.0, flip_keypoints=[1, 0])(example, rng())


def test_keypoints_outside_of_a_crop_are_marked_unlabelled() -> None:
    points = np.array([[[10.5, 5.5, 2], [50.5, 35.5, 2]]], np.float32)
    mask = np.ones((40, 56), np.uint8)
    for seed in range(20):
        sample = Transform(crop=(20, 20))(example_of([mask], points), rng(seed))
        assert sample.keypoints is not None
        for (x, y, v), (px, py, _) in zip(sample.keypoints[0], points[0], strict=True):
            moved = np.array([px, py]) - sample.to_bitmap[0, 2:]
            inside = (moved >= 0).all() and (moved <= 20).all()
            np.testing.assert_allclose([x, y, v], [*moved, 2] if inside else [0, 0, 0])


def test_large_scale_jitter_fits_the_image_into_the_crop_times_a_factor() -> None:
    shapes = set()
    for seed in range(50):
        transform = Transform(scale_jitter=(0.5, 2.0), crop=(64, 64))
        sample = transform(example_of(blocks(0)), rng(seed))
        scale = 1 / sample.to_bitmap[0, 0] if len(sample.to_bitmap) else 1
        if len(sample.to_bitmap):
            assert 0.48 <= scale * 56 / 64 <= 2.05
        shapes.add(sample.pixels.shape)
        assert max(sample.pixels.shape[:2]) <= 64
        assert max(sample.pixels.shape[:2]) >= 31
    assert (64, 64, 3) in shapes


def test_several_short_sides_are_all_drawn() -> None:
    sizes = {
        Transform(short_side=[20, 40, 60])(example_of(blocks(0)), rng(s)).pixels.shape[0] for s in range(30)
    }
    assert sizes == {20, 40, 60}


def test_colours_change_and_geometry_does_not() -> None:
    example = example_of(blocks(0))
    jitter = ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    plain, coloured = (Transform(crop=(30, 30), colour=c)(example, rng(1)) for c in (None, jitter))
    np.testing.assert_array_equal(plain.boxes, coloured.boxes)
    assert (plain.pixels != coloured.pixels).any()
    np.testing.assert_array_equal(
        coloured.pixels, Transform(crop=(30, 30), colour=jitter)(example, rng(1)).pixels
    )
    grey = ColourJitter(grey=1.0)(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8), rng())
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scale_jitter": (0.1, 2)}, "set crop"),
        ({"scale_jitter": (0.1, 2), "crop": (9, 9), "short_side": 8}, "short_side to null"),
        ({"horizontal_flip": 2}, "horizontal_flip is a probability"),
        ({"crop": (3,)}, "crop must be 2 positive numbers"),
        ({"crop": (0, 4)}, "crop must be 2 positive numbers"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Transform(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("whole", "factor"),
    [
        (Transform(), 1),
        (Transform(horizontal_flip=1.0), 1),
        pytest.param(Transform(vertical_flip=1.0), 1, marks=pytest.mark.slow),
        pytest.param(Transform(horizontal_flip=1.0, vertical_flip=1.0), 2, marks=pytest.mark.slow),
    ],
    ids=["identity", "mirror", "upside down", "turned and doubled"],
)
def test_all_masks_of_real_images_equal_pycocotools(
    real_data: Callable[[str], Path], whole: Transform, factor: int
) -> None:
    from pycocotools.coco import COCO

    root = real_data("coco_subset")
    dataset = CocoDataset(root / "annotations" / "instances_val2017.json", root / "val2017")
    truth = COCO()
    truth.dataset = dataset.ground_truth()
    truth.createIndex()
    count = 0
    for index in range(len(dataset)):
        record = dataset.record(index)
        transform = replace(whole, short_side=factor * min(record.height, record.width))
        image = np.zeros((record.height, record.width, 3), np.uint8)
        masks = dataset.masks(record)
        sample = transform(
            Example(image, record.image_id, record.boxes, record.labels, record.crowd, masks), rng()
        )
        for g, number in enumerate(record.annotation_ids):
            expected = truth.annToMask(truth.anns[int(number)])
            expected = np.kron(expected, np.ones((factor, factor), np.uint8))
            expected = expected[
                :: -1 if transform.vertical_flip else 1, :: -1 if transform.horizontal_flip else 1
            ]
            x1, y1, x2, y2 = sample.boxes[g].astype(int).tolist()
            x, y = max(x1 - 2, 0), max(y1 - 2, 0)
            seen = seen_mask(sample, g, (x, y, max(x2 - x, y2 - y) + 4))
            np.testing.assert_array_equal(seen, expected[y : y + len(seen), x : x + seen.shape[1]])
            assert seen.sum() == expected.sum()  # nothing of the object lies elsewhere
            count += 1
    assert count == 1786


def test_every_transform_is_a_key_of_the_configs() -> None:
    colour = "{_target_: maskrcnn.data.colour.ColourJitter, brightness: 0.2, hue: 0.1}"
    keys = ("short_side=null", "scale_jitter=[0.5,2.0]", "crop=[64,96]", f"colour={colour}")
    more = ("vertical_flip=0.25", "flip_keypoints=[1,0]", "max_size=90", "horizontal_flip=0")
    config = compose_config("train", [f"data.train_transform.{key}" for key in keys + more])
    assert build(config.data.train_transform) == Transform(
        short_side=None,
        max_size=90,
        scale_jitter=[0.5, 2.0],
        crop=[64, 96],
        horizontal_flip=0,
        vertical_flip=0.25,
        colour=ColourJitter(brightness=0.2, hue=0.1),
        flip_keypoints=[1, 0],
        pixel_mean=config.model.pixel_mean,
        pixel_std=config.model.pixel_std,
    )


@pytest.mark.parametrize(("height", "width"), [(40, 60), (97, 31), (50, 50), (333, 500)])
def test_float_resampling_is_torchvisions(height: int, width: int) -> None:
    """To the bit, sizes too: torchvision rounds them down, here of sides that do not divide."""
    image = rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    example = replace(example_of([np.ones((height, width))]), image=image)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    transform = GeneralizedRCNNTransform(77, 113, mean, std, size_divisible=1).eval()
    planes = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    expected, targets = transform([planes], [{"boxes": torch.from_numpy(example.boxes)}])
    scaled = (tuple(255 * v for v in values) for values in (mean, std))
    sample = Transform.of(Preprocessing(77, 113, "float", 32, *scaled))(example, rng())
    assert sample.pixels.dtype == np.float32
    np.testing.assert_array_equal(sample.pixels, expected.tensors[0].permute(1, 2, 0))
    assert targets is not None
    np.testing.assert_allclose(sample.boxes, targets[0]["boxes"], rtol=1e-6)
