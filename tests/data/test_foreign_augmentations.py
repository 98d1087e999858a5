"""Transforms of torchvision and albumentations in the list: against numpy, and against the built-in ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from maskrcnn.config.compose import build, compose_config, foreign_targets
from maskrcnn.config.data import drop_augmentations
from maskrcnn.data.augmentations import Others
from maskrcnn.data.dataset import Example
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError

from .test_augmentations import full, rectangles, tight, turned, with_points
from .test_transforms import example_of


def augmented(transform: Any, example: Example, seed: int = 0) -> Example:
    return Transform(augmentations=[transform]).augmented(example, np.random.default_rng(seed))


def example() -> Example:
    """Three rectangles, the second without a mask, boxes that are no mask bounds, and keypoints."""
    given = with_points(example_of(rectangles()), [[20.5, 12.5, 2], [30.5, 20.5, 1], [0, 0, 0]])
    masks = list(given.masks)
    masks[1] = None
    boxes = given.boxes + np.array([-0.5, -0.25, 0.5, 0.25], np.float32)
    return replace(given, boxes=boxes, masks=masks)


LIBRARIES = ["torchvision", "albumentations"]


def made(library: str, name: str) -> Any:
    """A mirror, a change of colours and a small crop of either library."""
    if library == "torchvision":
        return {
            "mirror": v2.RandomHorizontalFlip(1.0),
            "colours": v2.Compose([v2.RandomPhotometricDistort(p=1.0), v2.RandomInvert(1.0)]),
            "crop": v2.RandomCrop((20, 25)),
            "float": v2.ToDtype(torch.float32),
        }[name]
    a = pytest.importorskip("albumentations", reason="the extra maskrcnn[albumentations] is not installed")
    return {
        "mirror": a.HorizontalFlip(p=1.0),
        "colours": a.Compose([a.RandomBrightnessContrast(p=1.0), a.InvertImg(p=1.0)]),
        "crop": a.RandomCrop(20, 25),
        "float": a.ToFloat(p=1.0),
    }[name]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_mirror_is_numpys(library: str) -> None:
    given = example()
    out = augmented(made(library, "mirror"), given)
    np.testing.assert_array_equal(out.image, given.image[:, ::-1])
    for g in (0, 2):
        np.testing.assert_array_equal(full(out, g), rectangles()[g][:, ::-1])
        np.testing.assert_array_equal(out.boxes[g], tight(full(out, g)))
    assert out.masks[1] is None
    x1, y1, x2, y2 = given.boxes[1]
    np.testing.assert_allclose(out.boxes[1], [80 - x2, y1, 80 - x1, y2], atol=1e-4)
    assert out.keypoints is not None  # left and right are exchanged
    np.testing.assert_allclose(out.keypoints[0], [[49.5, 20.5, 1], [59.5, 12.5, 2], [0, 0, 0]], atol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_other_colours_leave_boxes_masks_and_points_as_they_are(library: str) -> None:
    given = example()
    out = augmented(made(library, "colours"), given)
    assert (out.image != given.image).any()
    np.testing.assert_array_equal(out.boxes, given.boxes)
    np.testing.assert_array_equal(out.keypoints, given.keypoints)
    assert [out.masks[g] is given.masks[g] for g in range(3)] == [True] * 3


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_crop_drops_what_lies_outside(library: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    given, seen_labels = replace(example_of(rectangles()), image=noise), set()
    for seed in range(12):
        out = augmented(made(library, "crop"), given, seed)
        ((top, left),) = [
            (y, x)
            for y in range(64 - 19)
            for x in range(80 - 24)
            if np.array_equal(noise[y : y + 20, x : x + 25], out.image)
        ]
        seen = [mask[top : top + 20, left : left + 25] for mask in rectangles()]
        assert out.labels.tolist() == [g for g in range(3) if seen[g].any()]
        for g, label in enumerate(out.labels):
            np.testing.assert_array_equal(full(out, g), seen[label])
            np.testing.assert_array_equal(out.boxes[g], tight(seen[label]))
        seen_labels.add(tuple(out.labels))
    assert len(seen_labels) > 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_random_numbers_are_the_lists_own(library: str) -> None:
    before = torch.get_rng_state()
    pictures = [augmented(made(library, "crop"), example(), seed).image.tobytes() for seed in (1, 1, 2, 3)]
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_image_that_is_no_longer_uint8_is_refused(library: str) -> None:
    with pytest.raises(UserError, match="normalisation to the model"):
        augmented(made(library, "float"), example())


@pytest.mark.parametrize("library", LIBRARIES)
def test_given_proposals_are_refused(library: str) -> None:
    given = replace(example(), proposals=np.zeros((1, 5), np.float32))
    with pytest.raises(UserError, match="cannot move given proposals"):
        augmented(made(library, "mirror"), given)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_image_without_objects_passes(library: str) -> None:
    given = replace(
        example_of(rectangles()),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowd=np.zeros(0, bool),
        masks=[],
    )
    out = augmented(made(library, "mirror"), given)
    np.testing.assert_array_equal(out.image, given.image[:, ::-1])
    assert (len(out.boxes), len(out.masks)) == (0, 0)


def test_torchvisions_rotation_is_that_of_the_polygon() -> None:
    given = with_points(example_of(rectangles()), [[20, 12, 2], [30, 20, 1]])
    out = augmented(v2.RandomRotation((20, 20)), given)
    polygon = turned(np.array([[8, 10], [38, 10], [38, 24], [8, 24]], np.float64), -20, 0)
    hull = np.concatenate([polygon.min(axis=0), polygon.max(axis=0)])
    assert np.abs(out.boxes[0] - hull.clip(0, [80, 64, 80, 64])).max() <= 1.5
    np.testing.assert_array_equal(out.boxes[0], tight(full(out, 0)))
    points = turned(np.array([[20, 12], [30, 20]], np.float64), -20, 0)
    assert out.keypoints is not None
    assert np.abs(out.keypoints[0, :, :2] - points).max() < 1  # torchvision's arithmetic is half a pixel off


def test_crowds_keep_their_flag_and_objects_that_torchvision_drops_are_dropped() -> None:
    given = replace(example_of(rectangles()), crowd=np.array([False, False, True]))
    keep_large = v2.SanitizeBoundingBoxes(min_area=425)  # the areas are 420, 480 and 425
    out = augmented(v2.Compose([v2.RandomVerticalFlip(1.0), keep_large]), given)
    assert (out.labels.tolist(), out.crowd.tolist()) == ([1, 2], [False, True])
    np.testing.assert_array_equal(full(out, 1), rectangles()[2][::-1])


def test_they_are_keys_of_the_configs_and_torchvisions_are_trusted() -> None:
    pytest.importorskip("albumentations", reason="the extra maskrcnn[albumentations] is not installed")
    entries = (
        "{_target_: torchvision.transforms.v2.RandomRotation, degrees: 5}",
        "{_target_: albumentations.HorizontalFlip}",
    )
    config = compose_config("train", [f"data.train_transform.augmentations=[{','.join(entries)}]"])
    assert foreign_targets(config) == ["albumentations.HorizontalFlip"]
    transform = build(config.data.train_transform)
    assert [type(item).__name__ for item in transform.augmentations] == ["RandomRotation", "HorizontalFlip"]
    given = example_of(rectangles())
    out = transform.augmented(given, np.random.default_rng(0), Others(lambda _: given, 1, True))
    assert out.image.shape == given.image.shape
    drop_augmentations(config)  # as for prediction, where nobody has to trust what only training calls
    assert foreign_targets(config) == []
