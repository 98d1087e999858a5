"""`maskrcnn.Predictor`: batches, masks, test-time augmentation, bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import maskrcnn
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.prediction.detections import ImageDetections
from maskrcnn.prediction.tta import Augmentation, _samples
from tests.models.test_detector import TINY, build

SIZES = [(96, 128), (96, 128), (128, 96), (90, 121), (64, 64), (96, 128)]


def model(*overrides: str) -> MaskRCNN:
    return build(*TINY, "model.box_head.score_threshold=0.05", *overrides)


def pictures(sizes: Sequence[tuple[int, int]] = SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def predictor(detector: MaskRCNN, **settings: object) -> maskrcnn.Predictor:
    return maskrcnn.Predictor(detector, Transform(), device="cpu", **settings)  # type: ignore[arg-type]


def assert_same(found: ImageDetections, expected: ImageDetections, atol: float = 1e-3) -> None:
    assert found.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(found.boxes, expected.boxes, atol=atol, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)


def test_a_batch_finds_what_single_pictures_show() -> None:
    detector, images = model(), pictures()
    together, alone = (predictor(detector, batch_size=size).predict(images) for size in (8, 1))
    assert sum(map(len, alone)) > 20
    for found, expected, image in zip(together, alone, images, strict=True):
        assert found.size == image.shape[:2]
        assert_same(found, expected)


def test_masks_are_rle_of_the_whole_picture() -> None:
    found = predictor(model()).predict(pictures())[3]
    assert found.masks is not None
    assert len(found.masks) == len(found) > 0
    areas = 0
    for index, rle in enumerate(found.masks):
        assert rle["size"] == [90, 121]
        expected = coco_mask.decode(rle).astype(bool)
        assert found.mask(index).dtype == np.bool_
        np.testing.assert_array_equal(found.mask(index), expected)
        areas += int(expected.sum())
    assert areas > 0


def test_boxes_are_in_pixels_of_the_picture_whatever_the_network_saw() -> None:
    detector, image = model(), pictures([(100, 150)])[0]
    doubled = maskrcnn.Predictor(detector, Transform(short_side=200), device="cpu").predict([image])[0]
    by_hand = maskrcnn.Predictor(detector, Transform(), device="cpu").predict(
        [Transform(short_side=200)(_example(image), np.random.default_rng(0)).pixels]
    )[0]
    assert len(doubled) > 0
    torch.testing.assert_close(doubled.boxes, by_hand.boxes / 2, atol=1e-3, rtol=1e-4)
    assert doubled.boxes[:, 2].max() <= 150


def _example(image: np.ndarray) -> object:
    from maskrcnn.data.dataset import Example

    return Example(image, 0, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), masks=[])


def test_one_view_alone_changes_nothing() -> None:
    detector, images = model(), pictures()
    plain = predictor(detector).predict(images)
    once = predictor(detector, augmentation=Augmentation((1.0,), flip=False)).predict(images)
    for found, expected in zip(once, plain, strict=True):
        assert_same(found, expected)
        assert found.masks == expected.masks


def test_with_mirrored_views_a_mirrored_picture_gives_mirrored_detections() -> None:
    image = pictures([(96, 128)])[0]
    augmented = predictor(model(), augmentation=Augmentation((1.0, 1.5), flip=True))
    found, mirrored = (augmented.predict([i])[0] for i in (image, np.ascontiguousarray(image[:, ::-1])))
    assert len(found) > 0
    assert_same(found, mirrored_back(mirrored, 128), atol=1e-2)
    assert mirrored.masks is not None
    different = [
        (found.mask(i) != mirrored.mask(i)[:, ::-1]).mean() for i in range(len(found))
    ]  # equal but for the pasted box's rounding to whole pixels
    assert max(different) < 0.1


def mirrored_back(found: ImageDetections, width: int) -> ImageDetections:
    x1, y1, x2, y2 = found.boxes.unbind(1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], 1)
    return ImageDetections(boxes, found.labels, found.scores, None, found.size)


@pytest.mark.parametrize("most", [None, 150])
def test_no_view_is_longer_than_its_limit(most: int | None) -> None:
    views = _samples(
        pictures([(50, 100)]), Transform(40), Augmentation((1.0, 2.0), flip=False, max_size=most)
    )
    assert [sample.picture.size for samples, _ in views for sample in samples] == [
        (40, 80),
        (80, 160) if most is None else (75, 150),
    ]


def test_augmented_masks_are_the_mean_of_the_views() -> None:
    """A model whose mask head says 0.9 of the left half of every box in every view says 0.5-ish of the whole."""
    detector = model()
    assert detector.mask_head is not None

    class LeftHalf(torch.nn.Module):
        def forward(self, regions: torch.Tensor) -> torch.Tensor:
            maps = torch.full((len(regions), 3, 28, 28), -4.0)
            maps[..., :14] = 3.0
            return maps

    detector.mask_head.predictor = LeftHalf()
    image = pictures([(96, 128)])[0]
    plain, flipped = (
        predictor(detector, augmentation=Augmentation((1.0,), flip=flip)).predict([image])[0]
        for flip in (False, True)
    )
    assert [m["counts"] for m in plain.masks or []] != [m["counts"] for m in flipped.masks or []]
    assert all(not flipped.mask(i).any() for i in range(len(flipped)))  # (0.95 + 0.02) / 2 is below one half
    assert any(plain.mask(i).any() for i in range(len(plain)))


def test_mirrored_views_exchange_left_and_right_keypoints() -> None:
    detector = build(
        *TINY[:2], "model=r18_fpn_keypoints", "num_keypoints=5", "model.box_head.score_threshold=0.05"
    )
    names = ["centre", "left", "top", "right", "bottom"]
    ready = predictor(
        detector,
        augmentation=Augmentation((1.0,), flip=True),
        categories=[{"id": n, "name": str(n), "keypoints": names} for n in range(3)],
    )
    image = pictures([(96, 128)])[0]
    found, mirrored = (ready.predict([i])[0] for i in (image, np.ascontiguousarray(image[:, ::-1])))
    assert found.masks is None
    assert found.keypoints is not None
    assert mirrored.keypoints is not None
    expected = mirrored.keypoints[:, [0, 3, 2, 1, 4]]
    expected[..., 0] = 128 - expected[..., 0]
    torch.testing.assert_close(found.keypoints[..., 2], expected[..., 2], atol=1e-5, rtol=1e-2)
    near = (found.keypoints - expected)[..., :2].abs().amax(-1) < 0.1
    assert near.float().mean() > 0.95  # untrained heatmaps are flat: a few have two peaks as high
    x, y, score = ready.predict([image])[0].to_coco(1, [0, 1, 2])[0]["keypoints"][:3]
    torch.testing.assert_close(torch.tensor([x + 0.5, y + 0.5, score]), found.keypoints[0, 0])


def test_stream_gives_every_picture_with_its_detections_in_order() -> None:
    detector, images = model(), pictures() * 3
    ready = predictor(detector, batch_size=2)
    streamed = list(ready.stream(iter(images)))
    assert [image is given for (image, _), given in zip(streamed, images, strict=True)] == [True] * 18
    for (_, found), expected in zip(streamed, ready.predict(images), strict=True):
        assert_same(found, expected)


def test_above_keeps_the_surest() -> None:
    found = predictor(model()).predict(pictures())[0]
    threshold = float(found.scores[3])
    kept = found.above(threshold)
    assert kept.scores.min() >= threshold
    assert len(kept) == int((found.scores >= threshold).sum()) >= 4
    assert kept.masks == (found.masks or [])[: len(kept)]


def test_coco_results() -> None:
    detector = model()
    ready = maskrcnn.Predictor(
        detector, Transform(), device="cpu", categories=[{"id": i, "name": str(i)} for i in (7, 9, 11)]
    )
    found = ready.predict(pictures())[0]
    results = found.to_coco(5, ready.category_ids)
    assert {r["image_id"] for r in results} == {5}
    assert [r["category_id"] for r in results] == [[7, 9, 11][label] for label in found.labels.tolist()]
    x, y, width, height = results[0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(found.boxes[0].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"picture 1 is uint8 \[3, 8, 8\]; expected an RGB array"),
        (np.zeros((8, 8, 3), np.float32), r"picture 1 is float32 \[8, 8, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), r"picture 1 is uint8 \[0, 8, 3\]"),
        ("photo.jpg", "picture 1 is str"),
    ],
)
def test_what_is_no_picture_is_refused(image: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        predictor(model()).predict([pictures()[0], image])  # type: ignore[list-item]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="at least one image"):
        predictor(model(), batch_size=0)
    with pytest.raises(UserError, match="positive scales"):
        Augmentation(())
    with pytest.raises(UserError, match="a model in memory has none"):
        predictor(model(), overrides=["seed=1"])
    assert predictor(model()).predict([]) == []


MEMORY = """
import re, numpy as np, torch
torch.set_num_threads(1)
import maskrcnn
from tests.models.test_detector import build
from maskrcnn.prediction.draw import draw_results
ready = maskrcnn.Predictor(build("model=r50_fpn", "model.box_head.score_threshold=0.0"), device="cpu")
# Not getrusage, whose peak is that of the process that started this one too.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 2**20
before, image = peak(), np.random.default_rng(0).integers(0, 256, (6000, 8000, 3), dtype=np.uint8)
found = ready.predict([image])[0]
assert len(found) == 100, len(found)
draw_results(image, found.to_coco(1, ready.category_ids), {}, 0.0)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_picture_of_48_megapixels_within_2_gib_drawing_included() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 2.0
