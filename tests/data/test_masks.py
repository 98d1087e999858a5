"""Masks against pycocotools and against pictures drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from maskrcnn.data.masks import MaskBitmap, crop_to_object, encode, pack
from maskrcnn.data.segmentation import decode, decode_all, parse_rle_strings
from maskrcnn.errors import UserError
from maskrcnn.models.heads.mask import aligned_mask_targets, has_mask, mask_targets

HEIGHT, WIDTH = 37, 53


def random_mask(seed: int, density: float) -> np.ndarray:
    return (np.random.default_rng(seed).random((HEIGHT, WIDTH)) < density).astype(np.uint8)


def oracle(segmentation: object) -> np.ndarray:
    """pycocotools' reading of a segmentation, the way its ``annToMask`` does it."""
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)
    else:
        rle = segmentation
    return coco_mask.decode(rle)


def full(mask: MaskBitmap | None) -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), np.uint8) if mask is None else mask.full(HEIGHT, WIDTH)


coordinates = st.floats(-20, 80).map(lambda value: round(value, 2))
polygons = st.lists(
    st.lists(coordinates, min_size=6, max_size=24).map(lambda p: p[: len(p) // 2 * 2]), max_size=3
)


@given(polygons)
@settings(max_examples=300, deadline=None)
def test_polygons_are_rasterised_as_by_pycocotools(segmentation: list[list[float]]) -> None:
    expected = oracle(segmentation) if segmentation else np.zeros((HEIGHT, WIDTH), np.uint8)
    np.testing.assert_array_equal(full(decode(segmentation, HEIGHT, WIDTH)), expected)


@pytest.mark.parametrize("density", [0.0, 0.003, 0.2, 0.5, 0.97, 1.0])
def test_both_kinds_of_rle_are_read_as_by_pycocotools(density: float) -> None:
    for seed in range(20):
        mask = random_mask(seed, density)
        compressed = coco_mask.encode(np.asfortranarray(mask))
        flat = mask.T.reshape(-1)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], flat)))).tolist()
        counts = np.diff([0, *edges, flat.size]).tolist()
        for segmentation in (
            compressed,
            {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
            {"size": [HEIGHT, WIDTH], "counts": counts},
        ):
            np.testing.assert_array_equal(oracle(segmentation), mask)
            np.testing.assert_array_equal(full(decode(segmentation, HEIGHT, WIDTH)), mask)


@given(st.lists(polygons, max_size=5), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_all_objects_of_an_image_are_read_as_one_by_one(several: list[list[list[float]]], seed: int) -> None:
    flat = {"size": [HEIGHT, WIDTH], "counts": [5, 7, HEIGHT * WIDTH - 12]}
    whole = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    segmentations = [*several, encode(random_mask(seed, 0.2)), flat, encode(random_mask(0, 0.0)), whole, flat]
    expected = [oracle(s) if s else np.zeros((HEIGHT, WIDTH), np.uint8) for s in segmentations]
    found = decode_all(segmentations, HEIGHT, WIDTH)
    for mask, bitmap in zip(expected, found, strict=True):
        np.testing.assert_array_equal(full(bitmap), mask)
        assert (bitmap is None) == (not mask.any())
        if bitmap is not None:  # no empty row or column at the edges
            edges = (bitmap.bits[0], bitmap.bits[-1], bitmap.bits[:, 0], bitmap.bits[:, -1])
            assert all(edge.any() for edge in edges)
            assert bitmap.bits.flags.c_contiguous


def test_long_runs_and_large_differences_survive_the_string() -> None:
    runs = [0, 1, 100_000, 7, 3, 250_000, 2_000_000, 1, 40]
    rle = coco_mask.frPyObjects(
        {"size": [1000, sum(runs) // 1000 + 1], "counts": runs}, 1000, sum(runs) // 1000 + 1
    )
    both = parse_rle_strings([rle["counts"], b"", rle["counts"]])
    assert [of_one.tolist() for of_one in both] == [runs, [], runs]


def test_bitmaps_are_tight() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:9, 11:30] = 1
    mask[6, 15] = 0
    cropped = crop_to_object(mask)
    decoded = decode(encode(mask), HEIGHT, WIDTH)
    assert cropped is not None
    assert decoded is not None
    for bitmap in (cropped, decoded):
        assert (bitmap.x0, bitmap.y0, bitmap.bits.shape) == (11, 5, (4, 19))
        np.testing.assert_array_equal(bitmap.bits, mask[5:9, 11:30])
    assert crop_to_object(np.zeros((3, 3))) is None


def test_encoding_is_pycocotools_own() -> None:
    mask = random_mask(3, 0.4)
    expected = coco_mask.encode(np.asfortranarray(mask))
    assert encode(mask * 255) == {"size": [HEIGHT, WIDTH], "counts": expected["counts"].decode()}


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [1, 2], "counts": "04"}, "RLE is for an image of size"),
        ({"size": [HEIGHT, WIDTH], "counts": [3, 4]}, "describes 7 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [-3, HEIGHT * WIDTH + 3]}, "describes"),
        ({"size": [HEIGHT, WIDTH], "counts": "\x01\x02"}, "damaged"),
        ({"size": [HEIGHT, WIDTH], "counts": "ooooooooooo0"}, "damaged"),
        ({"size": [HEIGHT, WIDTH], "counts": {"a": 1}}, "neither a string nor"),
        ({"size": [HEIGHT, WIDTH]}, "neither a list of polygons nor an RLE"),
        ("abc", "neither a list of polygons nor an RLE"),
        ([[1, 2, 3, 4]], "fewer than six"),
        ([[1, 2, 3, 4, 5, 6, 7]], "odd number"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside"),
        ([["1", 2, 3, 4, 5, 6]], "not a list of numbers"),
        ([1, 2, 3, 4, 5, 6], "not a list of numbers"),
    ],
)
def test_unreadable_segmentations_are_refused_in_words(segmentation: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        decode(segmentation, HEIGHT, WIDTH)


def slow_targets(mask: np.ndarray, box: list[float], size: int) -> np.ndarray:
    """The mask of the original image at the cells' centres, one cell after the other."""
    out = np.zeros((size, size), np.float32)
    for i in range(size):
        for j in range(size):
            x = int(np.floor(box[0] + (j + 0.5) / size * (box[2] - box[0])))
            y = int(np.floor(box[1] + (i + 0.5) / size * (box[3] - box[1])))
            if 0 <= x < WIDTH and 0 <= y < HEIGHT:
                out[i, j] = mask[y, x]
    return out


def test_mask_targets_read_the_original_mask_at_the_cells_centres() -> None:
    masks = [[random_mask(0, 0.5), random_mask(1, 0.1)], [random_mask(2, 0.7)]]
    identity = np.array([1, 1, 0, 0], np.float32)
    bitmaps = [[crop_to_object(mask) for mask in of_image] for of_image in masks]
    maps = [
        np.stack([identity - [0, 0, m.x0, m.y0] for m in of_image]) for of_image in bitmaps if all(of_image)
    ]
    packed = pack(bitmaps, maps, 4)
    boxes = torch.tensor([[[3.2, 4.1, 30.3, 20.7], [-5.5, -3, 60, 44], [10.2, 10.2, 10.9, 10.9]]]).repeat(
        2, 1, 1
    )
    matched = torch.tensor([[0, 1, 1], [0, 0, 0]])
    targets = mask_targets(packed, boxes, matched, 7)
    assert targets.shape == (2, 3, 7, 7)
    assert targets.dtype == torch.float32
    for n in range(2):
        for k in range(3):
            expected = slow_targets(masks[n][matched[n, k]], boxes[n, k].tolist(), 7)
            np.testing.assert_array_equal(targets[n, k].numpy(), expected)


def test_mask_targets_of_a_mirrored_and_enlarged_image() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 5:9] = 1
    mask[10, 5] = 0
    bitmap = crop_to_object(mask)
    assert bitmap is not None
    # The network's input is the image twice as large and mirrored: x = 2 * (WIDTH - x_original), y = 2 *
    # y_original.
    maps = np.array([[-0.5, 0.5, WIDTH - bitmap.x0, -bitmap.y0]], np.float32)
    box = torch.tensor([[[2 * (WIDTH - 9.0), 20.0, 2 * (WIDTH - 5.0), 40.0]]])
    targets = mask_targets(pack([[bitmap]], [maps], 1), box, torch.zeros(1, 1, dtype=torch.int64), 20)[0, 0]
    expected = np.repeat(np.repeat(mask[10:20, 5:9][:, ::-1], 2, axis=0), 5, axis=1)
    np.testing.assert_array_equal(targets.numpy(), expected)


def test_objects_without_masks_have_empty_bitmaps_and_zero_targets() -> None:
    packed = pack([[None], []], [np.ones((1, 4), np.float32), np.zeros((0, 4), np.float32)], 2)
    assert packed.size.sum() == 0
    assert not has_mask(packed).any()
    boxes = torch.tensor([[[0.0, 0, 5, 5]], [[0.0, 0, 5, 5]]])
    assert mask_targets(packed, boxes, torch.zeros(2, 1, dtype=torch.int64), 3).sum() == 0


def test_packing_lays_bitmaps_end_to_end() -> None:
    first, second = MaskBitmap(0, 0, np.ones((2, 3), np.uint8)), MaskBitmap(4, 5, np.ones((1, 4), np.uint8))
    packed = pack([[first, None], [second]], [np.ones((2, 4), np.float32), np.ones((1, 4), np.float32)], 2)
    assert packed.offset.tolist() == [[0, 0], [6, 0]]
    assert packed.size.tolist() == [[[2, 3], [0, 0]], [[1, 4], [0, 0]]]
    assert has_mask(packed).tolist() == [[True, False], [True, False]]
    assert packed.bits[:10].tolist() == [1] * 10


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [(37, 53), (74, 106), (50, 71)])
def test_aligned_targets_are_torchvisions(shape: tuple[int, int], mirrored: bool) -> None:
    from torchvision.models.detection.roi_heads import project_masks_on_boxes

    originals = [random_mask(seed, 0.6) for seed in (0, 1)]
    images = torch.from_numpy(np.stack(originals))
    resized = torch.nn.functional.interpolate(
        (images.flip(-1) if mirrored else images)[:, None].float(), size=shape
    )
    boxes = torch.tensor([[3.2, 4.1, 30.3, 20.7], [0.0, 0.0, 52.5, 36.2], [20.5, 10.25, 44.0, 33.0]])
    matched = torch.tensor([0, 1, 1])
    expected = project_masks_on_boxes(resized[:, 0], boxes, matched, 14)
    ratio_y, ratio_x = HEIGHT / shape[0], WIDTH / shape[1]
    bitmaps = [crop_to_object(mask) for mask in originals]
    place = [-ratio_x, ratio_y, WIDTH, 0] if mirrored else [ratio_x, ratio_y, 0, 0]
    maps = np.stack([np.array(place) - [0, 0, m.x0, m.y0] for m in bitmaps if m is not None]).astype(
        np.float32
    )
    packed = pack([bitmaps], [maps], 3)
    targets = aligned_mask_targets(packed, boxes[None], matched[None], 14, shape)[0]
    torch.testing.assert_close(targets, expected)
    canvas = (shape[0] + 9, shape[1] + 20)  # padded to a common size: what is seen at the image's edge stays
    size = torch.tensor([shape], dtype=torch.float32)
    torch.testing.assert_close(
        aligned_mask_targets(packed, boxes[None], matched[None], 14, canvas, size)[0], expected
    )
