"""Augmentations against drawn rectangles whose place after the change is known from geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from maskrcnn.config.compose import build, compose_config
from maskrcnn.data.augmentations import (
    PRESETS,
    Affine,
    Augmentation,
    Blur,
    Colour,
    CopyPaste,
    Crop,
    Flip,
    Mosaic,
    Noise,
    Others,
    QuarterTurns,
    ScaleJitter,
)
from maskrcnn.data.augmentations.protocol import NO_OTHERS
from maskrcnn.data.dataset import Example
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError

from .test_transforms import example_of, tight

BUILT_IN = [
    Flip(0.5, 0.5),
    QuarterTurns(),
    Affine(30, 10),
    ScaleJitter(),
    Crop(),
    Colour(grey=0.5),
    Blur(),
    Noise(),
    CopyPaste(),
    Mosaic(),
]


class Fixed:
    """A generator that draws the same each time."""

    def __init__(self, uniform: object = 0.0, random: float = 0.0, integers: object = 0) -> None:
        self._values = {"uniform": uniform, "random": random}
        self._integers = iter(integers if isinstance(integers, list) else [integers] * 99)

    def uniform(self, *_: object) -> Any:
        return self._values["uniform"]

    def random(self, *_: object) -> Any:
        return self._values["random"]

    def integers(self, *_: object) -> Any:
        return next(self._integers)

    def spawn(self, number: int) -> list[Any]:
        return [self] * number


def changed(augmentation: Augmentation, example: Example, rng: Any, others: Others = NO_OTHERS) -> Example:
    return augmentation(example, rng, others)


RECTANGLES = ((8, 10, 30, 14), (50, 5, 12, 40), (20, 40, 25, 17))  # x, y, width, height


def rectangles() -> list[np.ndarray]:
    masks = []
    for x, y, w, h in RECTANGLES:
        mask = np.zeros((64, 80), np.uint8)
        mask[y : y + h, x : x + w] = 1
        masks.append(mask)
    return masks


def full(example: Example, g: int) -> np.ndarray:
    mask = example.masks[g]
    assert mask is not None
    return mask.full(*example.image.shape[:2])


def with_points(example: Example, points: list[list[float]]) -> Example:
    """The keypoints for every object; the first two are left and right."""
    keypoints = np.array([points] * len(example.boxes), np.float32)
    return replace(example, keypoints=keypoints, mirror_keypoints=[1, 0, *range(2, len(points))])


# --- maps that keep every pixel ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augmentation", "rng", "expected", "mirrors"),
    [
        (Flip(1, 0), Fixed(random=np.array([0.5, 0.5])), lambda a: a[:, ::-1], True),  # type: ignore[arg-type]
        (Flip(0, 1), Fixed(random=np.array([0.5, 0.5])), lambda a: a[::-1], True),  # type: ignore[arg-type]
        (Flip(1, 1), Fixed(random=np.array([0.5, 0.5])), lambda a: a[::-1, ::-1], False),  # type: ignore[arg-type]
        *((QuarterTurns(), Fixed(integers=n), lambda a, n=n: np.rot90(a, -n), False) for n in range(4)),
    ],
    ids=["horizontal", "vertical", "both", "0", "90", "180", "270"],
)
def test_flips_and_quarter_turns_keep_every_pixel(
    augmentation: Augmentation, rng: Any, expected: Any, mirrors: bool
) -> None:
    masks = rectangles()
    masks[0] = (np.random.default_rng(0).random(masks[0].shape) < 0.4) * masks[0]
    example = with_points(example_of(masks), [[8.25, 10.5, 2], [37, 23.75, 1], [0, 0, 0]])
    # A box may have other bounds than its mask, which are kept.
    loose = replace(example, boxes=example.boxes + np.array([-0.25, -0.5, 0.125, 0.75], np.float32))
    out = changed(augmentation, loose, rng)
    np.testing.assert_array_equal(out.image, expected(example.image))
    assert out.labels.tolist() == [0, 1, 2]
    assert out.keypoints is not None
    for g, mask in enumerate(masks):
        np.testing.assert_array_equal(full(out, g), expected(mask))
        # The box is that of what covers it, drawn on an image eight times as large.
        large = np.zeros((64 * 8, 80 * 8), np.uint8)
        x1, y1, x2, y2 = (8 * loose.boxes[g]).astype(int)
        large[y1:y2, x1:x2] = 1
        np.testing.assert_allclose(out.boxes[g], np.array(tight(expected(large))) / 8)
    for k, (x, y, visibility) in enumerate(loose.keypoints[0]):  # type: ignore[index]
        place = [1, 0, 2][k] if mirrors else k
        if visibility == 0:
            assert not out.keypoints[0, place].any()
            continue
        large = np.zeros((64 * 8, 80 * 8), np.uint8)
        large[int(8 * y), int(8 * x)] = 1
        row, column = np.argwhere(expected(large))[0]
        near = np.abs(out.keypoints[0, place, :2] * 8 - [column + 0.5, row + 0.5])
        assert near.max() <= 0.5
        assert out.keypoints[0, place, 2] == visibility


# --- rotation and shear ------------------------------------------------------------------------------------


def turned(points: np.ndarray, degrees: float, shear: float) -> np.ndarray:
    """Points (x, y) of an 80 x 64 image, sheared along x and then turned clockwise (y points down) about its centre."""
    x, y = points[..., 0] - 40, points[..., 1] - 32
    x = x + y * np.tan(np.radians(shear))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.stack([c * x - s * y + 40, s * x + c * y + 32], axis=-1)


@pytest.mark.parametrize(("degrees", "shear"), [(17, 0), (-33, 0), (90, 0), (0, 12), (25, -9), (180, 0)])
def test_masks_and_boxes_of_a_turned_rectangle_are_those_of_the_polygon(degrees: float, shear: float) -> None:
    rng = Fixed(uniform=np.array([degrees / 180, shear / 60]))
    corners = np.array([[8, 10], [38, 10], [38, 24], [8, 24]], np.float64)
    example = with_points(example_of(rectangles()), [[20, 12, 2], [30, 20, 1], [2, 2, 2]])
    out = changed(Affine(180, 60), example, rng)
    polygon = turned(corners, degrees, shear)
    centres = np.stack(np.meshgrid(np.arange(80) + 0.5, np.arange(64) + 0.5), axis=-1)
    # Signed distance of every centre to the four sides; all positive inside.
    sides = np.roll(polygon, -1, axis=0) - polygon
    normals = np.stack([-sides[:, 1], sides[:, 0]], axis=1) / np.linalg.norm(sides, axis=1, keepdims=True)
    distance = np.einsum("yxkc,kc->yxk", centres[:, :, None] - polygon, normals).min(axis=-1)
    decided = np.abs(distance) > 0.02
    assert decided.mean() > 0.97
    mask = full(out, 0)
    np.testing.assert_array_equal(mask[decided], (distance > 0)[decided])
    np.testing.assert_array_equal(out.boxes[0], tight(mask))
    hull = np.concatenate([polygon.min(axis=0), polygon.max(axis=0)])
    assert (np.abs(out.boxes[0] - hull.clip(0, [80, 64, 80, 64])) <= 1.0).all()
    # The picture went the same way: object 0 has the grey value 40 on black.
    far = np.abs(distance) > 1.5
    far[full(out, 1) + full(out, 2) > 0] = False
    np.testing.assert_array_equal(out.image[..., 0][far & (distance > 0)], 40)
    points = turned(np.array([[20, 12], [30, 20], [2, 2]], np.float64), degrees, shear)
    assert out.keypoints is not None
    for found, place, visibility in zip(out.keypoints[0], points, (2, 1, 2), strict=True):
        inside = (place >= 0).all() and (place <= [80, 64]).all()
        np.testing.assert_allclose(found, [*place, visibility] if inside else [0, 0, 0], atol=1e-4)


def test_an_object_without_a_mask_gets_the_hull_of_its_turned_corners() -> None:
    example = replace(example_of(rectangles()), masks=[None] * 3)
    out = changed(Affine(180, 60), example, Fixed(uniform=np.array([20 / 180, 0])))
    corners = turned(np.array([[8, 10], [38, 10], [38, 24], [8, 24]], np.float64), 20, 0)
    hull = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    np.testing.assert_allclose(out.boxes[0], hull.clip(0, [80, 64, 80, 64]), rtol=1e-5)
    assert out.masks == [None] * 3


def test_objects_that_leave_the_image_are_dropped_and_crowds_are_turned_like_objects() -> None:
    corner = np.zeros((64, 80), np.uint8)
    corner[:6, :6] = 1
    example = replace(example_of([corner, rectangles()[0]]), crowd=np.array([False, True]))
    out = changed(Affine(180), example, Fixed(uniform=np.array([45 / 180, 0])))
    assert (out.labels.tolist(), out.crowd.tolist()) == ([1], [True])
    np.testing.assert_array_equal(out.boxes[0], tight(full(out, 0)))


def test_proposals_follow_and_those_outside_are_dropped() -> None:
    rows = np.array([[8, 10, 38, 24, 0.9], [0, 0, 3, 3, 0.5]], np.float32)
    out = changed(
        Affine(180),
        replace(example_of(rectangles()), proposals=rows),
        Fixed(uniform=np.array([45 / 180, 0])),
    )
    corners = turned(np.array([[8, 10], [38, 10], [38, 24], [8, 24]], np.float64), 45, 0)
    hull = np.concatenate([corners.min(axis=0), corners.max(axis=0)]).clip(0, [80, 64, 80, 64])
    np.testing.assert_allclose(out.proposals, [[*hull, 0.9]], rtol=1e-5)


# --- scale and crops ---------------------------------------------------------------------------------------


def test_an_image_doubled_is_its_pixels_repeated_and_cut() -> None:
    masks = rectangles()
    # 64 x 80 becomes 128 x 160, of which the window at (30, 22) is seen: offsets are negative.
    out = changed(ScaleJitter(), example_of(masks), Fixed(uniform=2.0, integers=[-30, -22]))
    for g, label in enumerate(out.labels):
        expected = np.kron(masks[label], np.ones((2, 2), np.uint8))[30 : 30 + 64, 22 : 22 + 80]
        np.testing.assert_array_equal(full(out, g), expected)
        np.testing.assert_allclose(out.boxes[g], tight(expected))
    assert len(out.labels) == 3
    inner = np.kron(example_of(masks).image, np.ones((2, 2, 1), np.uint8))[30:94, 22:102]
    assert (np.abs(inner.astype(int) - out.image).mean()) < 2  # edges are interpolated


def test_a_shrunk_image_lies_on_the_fill_colour() -> None:
    masks = rectangles()
    out = changed(ScaleJitter(fill=[9, 8, 7]), example_of(masks), Fixed(uniform=0.5, integers=[11, 20]))
    for g, mask in enumerate(masks):
        small = mask.reshape(32, 2, 40, 2).mean(axis=(1, 3))
        sure = (small == 0) | (small == 1)
        seen = full(out, g)[11 : 11 + 32, 20 : 20 + 40]
        np.testing.assert_array_equal(seen[sure], small[sure])
        assert full(out, g).sum() == seen.sum()
        np.testing.assert_allclose(out.boxes[g], np.array(tight(mask)) / 2 + [20, 11, 20, 11])
    outside = np.ones((64, 80), bool)
    outside[11 : 11 + 32, 20 : 20 + 40] = False
    assert (out.image[outside] == [9, 8, 7]).all()


def test_a_crop_is_a_window_of_the_image_that_holds_an_object() -> None:
    masks, whole = rectangles(), 0
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    example = replace(example_of(masks), image=noise)
    for seed in range(40):
        out = changed(Crop(smallest=0.3), example, np.random.default_rng(seed))
        height, width = out.image.shape[:2]
        ((top, left),) = [
            (y, x)
            for y in range(65 - height)
            for x in range(81 - width)
            if np.array_equal(noise[y : y + height, x : x + width], out.image)
        ]
        seen = [mask[top : top + height, left : left + width] for mask in masks]
        assert out.labels.tolist() == [g for g in range(3) if seen[g].any()] != []
        for g, label in enumerate(out.labels):
            np.testing.assert_array_equal(full(out, g), seen[label])
            np.testing.assert_array_equal(out.boxes[g], tight(seen[label]))
        centres = [(x + w / 2 - left, y + h / 2 - top) for x, y, w, h in RECTANGLES]
        assert any(0 <= x <= width and 0 <= y <= height for x, y in centres)
        if height >= 40 and width >= 30:  # each object fits
            assert any(seen[g].sum() == masks[g].sum() for g in range(3))
            whole += 1
    assert 5 <= whole < 40


def test_a_crop_keeps_boxes_that_are_no_mask_bounds() -> None:
    example = example_of([rectangles()[0]])
    loose = replace(example, boxes=example.boxes + np.array([[-0.5, -0.25, 0.5, 0.25]], np.float32))
    for seed in range(20):
        out = changed(Crop(smallest=0.2), loose, np.random.default_rng(seed))
        height, width = out.image.shape[:2]
        found, bounds = out.boxes[0], np.array(tight(full(out, 0)))
        low, high = np.maximum(bounds[:2] - [0.5, 0.25], 0), bounds[2:] + np.array([0.5, 0.25])
        # A side that the window cuts lies on the window's edge.
        cut = bounds - np.array([0, 0, width, height]) == 0
        np.testing.assert_allclose(found[~cut], np.concatenate([low, high])[~cut])
        assert (found[:2] >= 0).all()
        assert (found[2:] <= [width, height]).all()


# --- pixels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "augmentation", [Colour(0.5, grey=0.3), Blur((1, 2), probability=1), Noise(20, probability=1)]
)
def test_changes_of_pixels_leave_the_objects(augmentation: Augmentation) -> None:
    example = example_of(rectangles())
    out = changed(augmentation, example, np.random.default_rng(0))
    assert (out.image != example.image).any()
    assert out.image.dtype == np.uint8
    assert out.boxes is example.boxes
    assert out.masks is example.masks


def test_noise_has_the_deviation_that_was_drawn() -> None:
    class Drawn(np.random.Generator):
        def uniform(self, *_: object) -> float:  # type: ignore[override]
            return 12.0

    example = replace(example_of(rectangles()), image=np.full((64, 80, 3), 128, np.uint8))
    out = changed(Noise(20, probability=1), example, Drawn(np.random.PCG64(0)))
    assert out.image.std() == pytest.approx(12, rel=0.05)
    assert out.image.mean() == pytest.approx(128, abs=0.5)


def test_blur_is_a_gaussian() -> None:
    image = np.zeros((64, 80, 3), np.uint8)
    image[:, 40:] = 200
    out = changed(
        Blur((2, 2), probability=1), replace(example_of(rectangles()), image=image), Fixed(uniform=2.0)
    )
    from math import erf

    edge = [100 * (1 + erf((x + 0.5 - 40) / 2 / 2**0.5)) for x in range(80)]
    assert np.abs(out.image[30, :, 0] - edge).max() < 3


# --- several images ----------------------------------------------------------------------------------------


def other_image(masks: list[np.ndarray], **changes: Any) -> Others:
    """A training set of one image, whose object g has the grey value 200 + g."""
    example = example_of(masks)
    image = np.zeros_like(example.image)
    for g, mask in enumerate(masks):
        image[mask != 0] = 200 + g
    labels = np.arange(10, 10 + len(masks))
    return Others(lambda _: replace(example, image=image, labels=labels, **changes), 1, True)


def strips() -> list[np.ndarray]:
    """Upright strips, the last of which lies on the first."""
    masks = []
    for x, y, w, h in ((15, 0, 20, 60), (55, 0, 5, 60), (18, 30, 6, 9)):
        mask = np.zeros((64, 80), np.uint8)
        mask[y : y + h, x : x + w] = 1
        masks.append(mask)
    return masks


def test_pasted_objects_hide_what_lies_below_them() -> None:
    below, above = rectangles(), strips()
    hidden_object = np.zeros((64, 80), np.uint8)
    hidden_object[45:50, 56:59] = 1  # below strip 1
    below.append(hidden_object)
    target = example_of(below)
    numbers = set()
    for seed in range(30):
        out = changed(CopyPaste(probability=1), target, np.random.default_rng(seed), other_image(above))
        pasted = [int(label) - 10 for label in out.labels if label >= 10]
        numbers.add(tuple(pasted))
        assert not (0 in pasted and 2 not in pasted)  # what lies on a pasted object comes along
        top = np.zeros((64, 80), bool)
        for g in pasted:
            top |= above[g] != 0
        for g, label in enumerate(out.labels):
            expected = above[label - 10] if label >= 10 else below[label] * ~top
            np.testing.assert_array_equal(full(out, g), expected)
            np.testing.assert_array_equal(out.boxes[g], tight(expected))
        assert (3 in out.labels) == (1 not in pasted)
        picture = target.image[..., 0].copy()
        for g in sorted(pasted):
            picture[above[g] != 0] = 200 + g
        np.testing.assert_array_equal(out.image[..., 0], picture)
    assert len(numbers) >= 4


def test_crowds_are_not_pasted_and_hidden_keypoints_are_no_longer_visible() -> None:
    others = other_image(strips()[:2], crowd=np.array([True, False]))
    target = with_points(example_of([rectangles()[1]]), [[57, 20, 2], [51, 20, 2], [0, 0, 0]])
    crowd = replace(target, crowd=np.array([True]))
    out = changed(CopyPaste(probability=1), crowd, np.random.default_rng(0), others)
    assert (out.labels.tolist(), out.crowd.tolist()) == ([0, 11], [True, False])
    np.testing.assert_array_equal(full(out, 0), rectangles()[1] * (strips()[1] == 0))
    assert out.keypoints is not None
    np.testing.assert_array_equal(out.keypoints[0, :, 2], [1, 2, 0])
    np.testing.assert_array_equal(out.keypoints[1], np.zeros((3, 3)))


def test_the_other_image_is_scaled_to_fit_and_passes_the_list_before() -> None:
    large = [np.kron(mask, np.ones((2, 2), np.uint8)) for mask in strips()[1:2]]
    transform = Transform(augmentations=[Flip(1, 0), CopyPaste(probability=1)])
    others = other_image(large)
    out = transform.augmented(example_of(rectangles()), np.random.default_rng(0), others)
    np.testing.assert_array_equal(full(out, len(out.labels) - 1), strips()[1][:, ::-1])
    np.testing.assert_array_equal(
        out.image[5], np.where(strips()[1][5, ::-1], 200, out.image[5, :, 0])[:, None] * [1, 1, 1]
    )


def test_mosaic_has_four_images_in_its_quarters() -> None:
    plain = np.zeros((64, 80), np.uint8)
    plain[2:62, 2:78] = 1
    out = changed(
        Mosaic(probability=1), example_of([plain]), Fixed(integers=[40, 30, *[0] * 20]), other_image([plain])
    )
    assert out.image.shape == (64, 80, 3)
    assert out.labels.tolist() == [0, 10, 10, 10]
    for g, (rows, columns, grey) in enumerate(
        (
            (slice(0, 40), slice(0, 30), 40),
            (slice(0, 40), slice(30, 80), 200),
            (slice(40, 64), slice(0, 30), 200),
            (slice(40, 64), slice(30, 80), 200),
        )
    ):
        mask = full(out, g)
        assert mask[rows, columns].sum() == mask.sum() > 0.5 * mask[rows, columns].size
        np.testing.assert_allclose(out.boxes[g], tight(mask), atol=1.0)
        middle = np.median(out.image[rows, columns, 0])
        assert middle == grey


def test_copy_paste_says_what_it_needs() -> None:
    example = example_of(rectangles())
    with pytest.raises(UserError, match="CopyPaste needs masks"):
        changed(CopyPaste(), example, np.random.default_rng(0), Others(lambda _: example, 1, False))
    with pytest.raises(UserError, match="no data set to draw them from"):
        changed(CopyPaste(probability=1), example, np.random.default_rng(0))


# --- lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", BUILT_IN, ids=lambda a: type(a).__name__)
def test_built_in_ones_keep_the_protocol(augmentation: Augmentation) -> None:
    """The same generator gives the same, another one differs somewhere, and the example itself is not changed."""
    assert isinstance(augmentation, Augmentation)
    example = with_points(example_of(rectangles()), [[10, 12, 2], [30, 20, 1]])
    before = (example.image.copy(), example.boxes.copy(), [full(example, g) for g in range(3)])
    others = other_image(strips())
    first, again = (changed(augmentation, example, np.random.default_rng(3), others) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    pictures = {
        changed(augmentation, example, np.random.default_rng(s), others).image.tobytes() for s in range(8)
    }
    assert len(pictures) > 1
    np.testing.assert_array_equal(example.image, before[0])
    np.testing.assert_array_equal(example.boxes, before[1])
    for g in range(3):
        np.testing.assert_array_equal(full(example, g), before[2][g])
    for g, mask in enumerate(first.masks):
        assert mask is not None
        height, width = mask.bits.shape
        assert tight(full(first, g)) == [mask.x0, mask.y0, mask.x0 + width, mask.y0 + height]
    assert first.boxes.dtype == np.float32
    assert first.keypoints is not None
    assert first.keypoints.shape == (len(first.boxes), 2, 3)


def test_the_lists_draw_nothing_from_the_transforms_own_numbers() -> None:
    example = example_of(rectangles())
    settings: dict[str, Any] = {"short_side": [30, 40, 50, 60, 70, 80], "horizontal_flip": 0.5}
    for seed in range(10):
        plain = Transform(**settings)(example, np.random.default_rng(seed))
        noisy = Transform(**settings, augmentations=[Noise(probability=1)])(
            example, np.random.default_rng(seed)
        )
        assert plain.pixels.shape == noisy.pixels.shape
        np.testing.assert_array_equal(plain.boxes, noisy.boxes)
        np.testing.assert_array_equal(plain.to_bitmap, noisy.to_bitmap)
        assert (plain.pixels != noisy.pixels).any()


def test_a_list_may_name_presets() -> None:
    example = example_of(rectangles())
    named = Transform(augmentations=["strong", Flip(1, 0)])
    listed = Transform(augmentations=[*PRESETS["strong"], Flip(1, 0)])
    for seed in range(5):
        one, other = (t(example, np.random.default_rng(seed)) for t in (named, listed))
        np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("medium", "no preset 'medium'; there are light, strong"),
        (["light", 3], "3 is no augmentation"),
        ([Flip], "is no augmentation"),
    ],
)
def test_what_is_no_augmentation_is_refused(given: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Transform(augmentations=given)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda e, rng, others: replace(e, image=e.image / 255), "an image of float64"),
        (
            lambda e, rng, others: replace(e, labels=e.labels[:1]),
            "3 boxes, but 1 labels, 3 crowd flags and 3 masks",
        ),
    ],
)
def test_an_own_one_that_returns_what_cannot_be_trained_on_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Transform(augmentations=[wrong])(example_of(rectangles()), np.random.default_rng(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Flip(2),
        lambda: QuarterTurns(-1),
        lambda: Affine(200),
        lambda: Affine(shear=90),
        lambda: ScaleJitter(2, 1),
        lambda: Crop(0),
        lambda: Blur((2, 1)),
        lambda: Noise(-1),
        lambda: Colour(hue=1),
        lambda: CopyPaste(most=0),
        lambda: Mosaic(1.5),
    ],
)
def test_impossible_settings_are_refused(make: Any) -> None:
    with pytest.raises(UserError):
        make()


def test_the_list_is_a_key_of_the_configs() -> None:
    key = "data.train_transform.augmentations"
    assert compose_config("train", []).data.train_transform.augmentations is None
    strong = build(compose_config("train", [f"{key}=strong"]).data.train_transform)
    assert strong.augmentations == "strong"
    turn = "{_target_: maskrcnn.data.augmentations.Affine, degrees: 5, fill: [1, 2, 3]}"
    both = build(compose_config("train", [f"{key}=[light,{turn}]"]).data.train_transform)
    assert both.augmentations == ["light", Affine(5, fill=[1, 2, 3])]
    for value, words in (
        ("[{_target_: maskrcnn.data.augmentations.Affine, degree: 5}]", "did you mean degrees"),
        ("[{_target_: maskrcnn.data.augmentations.Affine, degrees: five}]", "is not a number"),
        ("[light,{degrees: 5}]", "augmentations"),
        ("[{_target_: maskrcnn.data.augmentations.Turn}]", "cannot be imported"),
        ("3", "augmentations=3 is not"),
    ):
        with pytest.raises(UserError, match=words):
            compose_config("train", [f"{key}={value}"])
