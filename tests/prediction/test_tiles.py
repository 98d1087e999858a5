"""Windows of large images: where they lie, and that what is cut by their borders is one object again."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

import maskrcnn
from maskrcnn.data.masks import encode
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.prediction.detections import ImageDetections
from maskrcnn.prediction.tiles import Tiles, Window, detect_tiled, merge
from maskrcnn.prediction.tta import Augmentation
from tests.prediction.test_predictor import assert_same, model, pictures

Bits = np.ndarray
LEAST = 6  # pixels: a part of an object of less is no detection, as of a real detector


@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 300), st.floats(0, 0.9))
@settings(deadline=None)
def test_windows_cover_the_image_and_overlap_as_asked(
    height: int, width: int, size: int, overlap: float
) -> None:
    windows = Tiles(size, overlap).windows(height, width)
    seen = np.zeros((height, width), bool)
    for top, left, h, w in windows:
        assert (h, w) == (min(size, height), min(size, width))
        seen[top : top + h, left : left + w] = True
    assert seen.all()
    for side, starts in ((height, {w.top for w in windows}), (width, {w.left for w in windows})):
        steps = np.diff(sorted(starts))
        assert (steps <= size * (1 - overlap) + 1).all()  # starts are whole pixels
        assert max(starts) == max(side - size, 0)
        fewest = 1 if side <= size else 1 + int(np.ceil((side - size) / (size * (1 - overlap)) - 1e-9))
        assert len(starts) <= fewest


def detections(masks: Sequence[Bits], labels: Sequence[int], scores: Sequence[float]) -> ImageDetections:
    """Exact detections of masks ``[H, W]``, with their tight boxes."""
    rles = [encode(mask) for mask in masks]
    x, y, w, h = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4).T
    boxes = torch.tensor(np.stack([x, y, x + w, y + h], 1), dtype=torch.float32)
    return ImageDetections(boxes, torch.tensor(labels), torch.tensor(scores), rles, masks[0].shape)  # type: ignore[arg-type]


def scene(seed: int, rectangles: bool, height: int = 240, width: int = 330) -> Bits:
    """A map of numbers: 0, or the object that a pixel belongs to. Objects are apart, of 8 to 150 pixels."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros((height, width), np.int64)
    for number in range(1, 40):
        h, w = (int(side) for side in rng.integers(8, 150, 2) // rng.choice([1, 1, 4], 2))
        h, w = max(h, 8), max(w, 8)
        top, left = (int(rng.integers(0, max(side - size, 1))) for side, size in ((height, h), (width, w)))
        around = numbers[max(top - 3, 0) : top + h + 3, max(left - 3, 0) : left + w + 3]
        if around.any():
            continue
        yy, xx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        shape = [yy**2 + xx**2 <= 1.01, np.ones((h, w), bool), yy <= xx][1 if rectangles else number % 3]
        place = numbers[top : top + h, left : left + w]
        place[shape[: place.shape[0], : place.shape[1]]] = number
    return numbers


def perfect(numbers: Bits, noise: int = 0) -> tuple[list[Bits], list[int]]:
    """The masks and classes of the objects in a map; objects of two pixels and less are not seen."""
    rng = np.random.default_rng(noise)
    found = [number for number in np.unique(numbers) if number and (numbers == number).sum() >= LEAST]
    rng.shuffle(found)
    return [numbers == number for number in found], [int(number) % 2 for number in found]


@pytest.mark.parametrize("with_masks", [True, False], ids=["masks", "boxes"])
@pytest.mark.parametrize("seed", range(12))
def test_a_perfect_detector_of_windows_is_perfect_on_the_image(seed: int, with_masks: bool) -> None:
    """Objects cut by borders, up to several windows long, are whole again, each once, whatever their scores."""
    numbers = scene(seed, rectangles=not with_masks)
    rng = np.random.default_rng(seed)

    def detect(views: Sequence[Bits]) -> list[ImageDetections]:
        found = []
        for view in views:
            masks, labels = perfect(view[..., 0], seed)
            if not masks:
                empty = torch.zeros(0, dtype=torch.int64)
                found.append(
                    ImageDetections(torch.zeros(0, 4), empty, torch.zeros(0), [], view.shape[:2])  # type: ignore[arg-type]
                )
                continue
            found.append(detections(masks, labels, rng.uniform(0.1, 1, len(masks)).tolist()))
        if not with_masks:
            found = [ImageDetections(f.boxes, f.labels, f.scores, None, f.size) for f in found]
        return found

    whole = detect_tiled(numbers[..., None], detect, Tiles(64, 0.3))  # type: ignore[arg-type]
    masks, labels = perfect(numbers)
    expected = detections(masks, labels, [1.0] * len(masks))
    assert len(whole) == len(expected) > 5
    assert (whole.scores.diff() <= 0).all()

    def rows(of: ImageDetections) -> list[tuple[object, ...]]:
        rles = of.masks or [{"counts": ""}] * len(of)
        return sorted(
            (*box, label, rle["counts"] if with_masks else "")
            for box, label, rle in zip(of.boxes.tolist(), of.labels.tolist(), rles, strict=True)
        )

    assert rows(whole) == rows(expected)


def rectangle(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = (100, 180)) -> Bits:
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


LEFT, RIGHT = Window(0, 0, 100, 100), Window(0, 80, 100, 100)


def merged(
    left: Sequence[tuple[Bits, float]], right: Sequence[tuple[Bits, float]], match: float = 0.5
) -> ImageDetections:
    none = ImageDetections(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), [], (100, 180)
    )
    found = [
        detections([m for m, _ in of], [0] * len(of), [s for _, s in of]) if of else none
        for of in (left, right)
    ]
    return merge(found, [LEFT, RIGHT], match)


def test_a_half_beside_the_whole_is_left_out_though_it_has_the_higher_score() -> None:
    whole, half = rectangle(30, 20, 96, 60), rectangle(80, 20, 96, 60)
    found = merged([(whole, 0.4)], [(half, 0.9)])
    assert found.boxes.tolist() == [[30, 20, 96, 60]]
    assert found.scores.tolist() == pytest.approx([0.4])
    np.testing.assert_array_equal(found.mask(0), whole)


def test_the_same_object_in_two_windows_is_kept_once_with_the_higher_score() -> None:
    found = merged([(rectangle(82, 20, 96, 60), 0.4)], [(rectangle(83, 20, 97, 60), 0.9)])
    assert found.boxes.tolist() == [[83, 20, 97, 60]]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_two_parts_of_a_long_object_are_joined() -> None:
    found = merged([(rectangle(20, 20, 100, 60), 0.4)], [(rectangle(80, 22, 150, 60), 0.9)])
    assert found.boxes.tolist() == [[20, 20, 150, 60]]
    assert found.scores.tolist() == pytest.approx([0.9])
    np.testing.assert_array_equal(found.mask(0), rectangle(20, 20, 100, 60) | rectangle(80, 22, 150, 60))


def test_parts_that_do_not_agree_where_both_windows_look_are_two_objects() -> None:
    found = merged([(rectangle(20, 20, 100, 40), 0.4)], [(rectangle(80, 38, 150, 60), 0.9)])
    assert sorted(found.boxes.tolist()) == [[20, 20, 100, 40], [80, 38, 150, 60]]


def test_two_objects_of_one_window_are_never_merged() -> None:
    overlapping = [(rectangle(10, 10, 60, 60), 0.9), (rectangle(12, 12, 60, 60), 0.8)]
    assert len(merged(overlapping, [])) == 2


def test_a_part_that_is_seen_last_joins_what_lies_left_and_right_of_it() -> None:
    windows = [Window(0, 0, 100, 100), Window(0, 60, 100, 100), Window(0, 120, 100, 100)]
    size = (100, 220)
    masks = [
        rectangle(10, 10, 100, 90, size),
        rectangle(60, 30, 160, 90, size),
        rectangle(120, 10, 215, 90, size),
    ]
    found = merge([detections([m], [0], [s]) for m, s in zip(masks, (0.9, 0.1, 0.8), strict=True)], windows)
    assert found.boxes.tolist() == [[10, 10, 215, 90]]
    np.testing.assert_array_equal(found.mask(0), masks[0] | masks[1] | masks[2])
    assert found.scores.tolist() == pytest.approx([0.9])


def test_a_picture_of_one_window_is_predicted_as_without_tiles() -> None:
    detector, images = model(), pictures()
    plain = maskrcnn.Predictor(detector, Transform(), device="cpu").predict(images)
    tiled = maskrcnn.Predictor(detector, Transform(), device="cpu", tiles=Tiles(128)).predict(images)
    for found, expected in zip(tiled, plain, strict=True):
        assert_same(found, expected, atol=0)
        assert found.masks == expected.masks


@pytest.mark.parametrize("augmentation", [None, Augmentation((1.0,), flip=True)], ids=["plain", "augmented"])
def test_windows_without_overlap_give_the_detections_of_the_crops_at_their_places(
    augmentation: Augmentation | None,
) -> None:
    detector, image = model(), pictures([(192, 256)])[0]
    settings = {"device": "cpu", "augmentation": augmentation}
    tiles = Tiles(64, overlap=0.0, match=1.0)
    whole = maskrcnn.Predictor(detector, Transform(), tiles=tiles, **settings).predict([image])[0]  # type: ignore[arg-type]
    crops = [(y, x) for y in (0, 64, 128) for x in (0, 64, 128, 192)]
    alone = maskrcnn.Predictor(
        detector, Transform(), **settings
    ).predict(  # type: ignore[arg-type]
        [np.ascontiguousarray(image[y : y + 64, x : x + 64]) for y, x in crops]
    )
    assert len(whole) == sum(map(len, alone)) > 50
    expected = []
    for (y, x), of in zip(crops, alone, strict=True):
        for index, box in enumerate(of.boxes.tolist()):
            full = np.zeros((192, 256), bool)
            full[y : y + 64, x : x + 64] = of.mask(index)
            expected.append((float(of.scores[index]), [box[0] + x, box[1] + y, box[2] + x, box[3] + y], full))
    expected.sort(key=lambda row: -row[0])
    for index, (score, box, full) in enumerate(expected):
        assert float(whole.scores[index]) == score
        assert whole.boxes[index].tolist() == pytest.approx(box, abs=1e-4)
        np.testing.assert_array_equal(whole.mask(index), full)


def test_keypoints_move_with_their_window() -> None:
    points = torch.tensor([[[3.0, 4.0, 0.9]]])
    found = ImageDetections(
        torch.tensor([[1.0, 2, 5, 6]]), torch.tensor([0]), torch.tensor([0.5]), None, (50, 50), points
    ).moved(100, 200, (400, 600))
    assert found.boxes.tolist() == [[201, 102, 205, 106]]
    assert found.keypoints is not None
    assert found.keypoints.tolist() == [[[203, 104, pytest.approx(0.9)]]]
    assert found.size == (400, 600)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 8}, "tile=8: a window has at least 32"),
        ({"overlap": 1.0}, r"overlap=1.0: expected a share"),
        ({"match": 0.0}, "match=0.0"),
    ],
)
def test_tiles_that_cannot_be_are_refused(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words) if "(" in words else words):
        Tiles(**arguments)  # type: ignore[arg-type]


MEMORY = """
import re, numpy as np, torch
torch.set_num_threads(1)
import maskrcnn
from maskrcnn.data.transforms import Transform
from maskrcnn.prediction.tiles import Tiles
from tests.models.test_detector import TINY, build
detector = build(*TINY, "model.box_head.score_threshold=0.0")
ready = maskrcnn.Predictor(detector, Transform(128), device="cpu", tiles=Tiles(640, 0.2), batch_size=4)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 2**20
image = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
ready.predict([image[:700, :700]])
before = peak()
found = ready.predict([image])[0]
assert len(found) > 1000, len(found)
print(peak() - before, len(found))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_masks_of_a_large_picture() -> None:
    """A thousand masks of 12 megapixels would be 11 GiB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    grown, _ = done.stdout.split()
    assert float(grown) < 0.3
