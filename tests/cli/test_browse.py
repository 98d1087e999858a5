"""tools/browse.py: a page without a network, its pictures beside it, sorted by error."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.cli import browse
from maskrcnn.config.compose import compose_config
from maskrcnn.config.data import open_data
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.evaluation.diagnosis import KINDS, analyse, by_image
from maskrcnn.prediction.draw import as_annotations, visible
from maskrcnn.prediction.gallery import Card, to_page
from tests.cli.test_train import annotations_of
from tests.data.test_transforms import example_of


def numbers_of(page: str) -> list[dict[str, float]]:
    return [json.loads(html.unescape(text)) for text in re.findall(r'data-numbers="([^"]*)"', page)]


def test_predictions_beside_ground_truth(run: Path, tiny: Sequence[str], tmp_path: Path) -> None:
    browse.main([f"run={run}", f"run_dir={tmp_path}", "score_threshold=0.1", "width=90"])
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"https?://|//cdn|@import", page)
    pictures = re.findall(r'<img src="([^"]*)"', page)
    assert len(pictures) == 6
    for picture in pictures:
        assert cv2.imread(str(tmp_path / picture)).shape == (90, 90 + 4 + 90, 3)
    numbers = numbers_of(page)
    predictions = json.loads((run / "predictions.json").read_text())
    found = analyse(predictions, annotations_of(tiny), "segm", min_score=0.1)
    for kind in KINDS:
        assert sum(entry[kind] for entry in numbers) == found.errors[kind]
    for entry in numbers:
        assert entry["errors"] == sum(entry[kind] for kind in KINDS if kind != "correct")
    assert sum(entry["errors"] for entry in numbers) > 0


def test_a_data_set_alone(tiny: Sequence[str], tmp_path: Path) -> None:
    annotations = annotations_of(tiny)
    arguments = [f"annotations={annotations}", f"images={annotations.parent / 'images'}", "num_images=2"]
    browse.main([*arguments, f"run_dir={tmp_path}"])
    page = (tmp_path / "index.html").read_text()
    truth = json.loads(annotations.read_text())["annotations"]
    expected = [sum(a["image_id"] == n for a in truth) for n in (1, 2)]
    assert [entry["objects"] for entry in numbers_of(page)] == expected
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"000000.jpg", "000001.jpg"}


def test_errors_by_image() -> None:
    truth = {
        "images": [{"id": n, "height": 50, "width": 50} for n in (1, 2)],
        "categories": [{"id": 3, "name": "x"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0},
        ],
    }
    found = [
        {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 19], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [30, 30, 9, 9], "score": 0.8},
        {"image_id": 2, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.1},
    ]
    counts = by_image(found, truth)
    none = dict.fromkeys(KINDS, 0)
    assert counts == {1: {**none, "correct": 1, "background": 1}, 2: {**none, "missed": 1}}


def test_names_are_escaped() -> None:
    page = to_page("<a>", [Card("p.jpg", '"><script>x</script>', ["<b>"], {"n": 1})], "n")
    assert "<script>x" not in page
    assert "&lt;a&gt;" in page
    assert "<b>" not in re.sub(r"<b>1</b>", "", page)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for arguments, words in (
        ([f"run={tmp_path}"], "no run directory of tools/train.py"),
        (["annotations=a.json"], "belong together"),
        (["split=test"], "there are train and val"),
    ):
        with pytest.raises(UserError, match=words):
            browse.main([*arguments, f"run_dir={tmp_path}"])


@pytest.mark.parametrize(
    ("content", "words"),
    [({"images": []}, "predictions are a list"), ([{"score": 1.0}], "prediction 0 has image_id=None")],
)
def test_predictions_that_are_none_are_refused(
    tiny: Sequence[str], tmp_path: Path, content: object, words: str
) -> None:
    (tmp_path / "p.json").write_text(json.dumps(content))
    own = [a for a in tiny if a.startswith("data.")]
    with pytest.raises(UserError, match=words):
        browse.main([*own, f"predictions={tmp_path / 'p.json'}", f"run_dir={tmp_path}"])


def test_training_images_as_training_sees_them(tiny: Sequence[str], tmp_path: Path) -> None:
    """A wipe of the colours and a paste of every object are seen in the pictures and in the counts."""
    own = [a for a in tiny if a.startswith("data.")]
    grey = "{_target_: maskrcnn.data.augmentations.Colour, grey: 1.0}"
    arguments = [
        *own,
        "augmented=2",
        "num_images=3",
        f"run_dir={tmp_path}",
        "data.train_transform.horizontal_flip=0",
    ]
    browse.main([*arguments, f"data.train_transform.augmentations=[{grey}]"])
    config = compose_config("train", own)
    dataset = open_data(config, "train")
    page = (tmp_path / "index.html").read_text()
    assert [n["objects"] for n in numbers_of(page)] == [int(dataset.num_objects[n // 2]) for n in range(6)]
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == [f"{n:06d}_{epoch}.jpg" for n in range(3) for epoch in range(2)]
    # The corner shows the ground, which has no colour any more.
    corner = cv2.imread(str(tmp_path / "pictures" / names[0]))[:2, :2].astype(int)
    assert (corner.max(axis=2) - corner.min(axis=2)).max() <= 12
    with pytest.raises(UserError, match="augmented draws training images"):
        browse.main(["annotations=a.json", "images=b", "augmented=1", f"run_dir={tmp_path}"])


def test_masks_and_points_of_a_sample_are_drawn_where_the_network_sees_them() -> None:
    mask = np.zeros((40, 56), np.uint8)
    mask[10:30, 5:25] = np.triu(np.ones((20, 20), np.uint8))
    example = example_of([mask], np.array([[[6.5, 10.5, 2]]], np.float32))
    sample = Transform(short_side=80, horizontal_flip=1.0)(example, np.random.default_rng(0))
    (entry,) = as_annotations(sample, [7])
    np.testing.assert_array_equal(
        coco_mask.decode(entry["segmentation"]), np.kron(mask, np.ones((2, 2)))[:, ::-1]
    )
    assert entry["bbox"] == [62, 20, 40, 40]
    assert entry["keypoints"] == [112 - 13 - 0.5, 20.5, 2]
    assert entry["category_id"] == 7
    assert visible(sample).shape == (80, 112, 3)


def test_images_that_cannot_be_read_are_left_out_where_skip_says_so(
    tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remedy that the refusal names, followed."""
    source = annotations_of(tiny)
    images = tmp_path / "images"
    shutil.copytree(source.parent / "images", images)
    name = json.loads(source.read_text())["images"][0]["file_name"]
    (images / name).write_bytes(b"no image")
    given = [f"annotations={source}", f"images={images}", "num_images=2", f"run_dir={tmp_path}"]
    with pytest.raises(UserError, match=r"set data\.on_corrupt_image=skip"):
        browse.main(given)
    browse.main([*given, "data.on_corrupt_image=skip"])
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"000001.jpg"}
    assert "left out: the image" in capsys.readouterr().out


def test_a_wrong_key_next_to_annotations_is_refused(tiny: Sequence[str], tmp_path: Path) -> None:
    source = annotations_of(tiny)
    with pytest.raises(UserError, match="unknown key 'with'"):
        browse.main(
            [f"annotations={source}", f"images={source.parent / 'images'}", "with=300", f"run_dir={tmp_path}"]
        )
