"""Keypoints in the layout of COCO's person_keypoints files: read, checked, mirrored, scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.cli import check_data
from maskrcnn.cli import eval as eval_command
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.keypoints import to_coco
from maskrcnn.data.loader import TrainLoader
from maskrcnn.data.masks import encode
from maskrcnn.data.transforms import Transform
from tests.data.test_keypoints import COCO_PERSON

Write = Callable[..., tuple[Path, Path]]
PERSON = {
    "supercategory": "person",
    "id": 1,
    "name": "person",
    "keypoints": list(COCO_PERSON),
    "skeleton": [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13]],
}


def person(number: int, image_id: int, seed: int) -> dict[str, Any]:
    """As COCO writes it: 51 numbers, whole pixels, zeros where nothing is labelled."""
    rng = np.random.default_rng(seed)
    x, y, w, h = 4.5, 3.25, 30.0, 30.5
    points = np.zeros((17, 3), int)
    seen = rng.random(17) < 0.7
    points[seen] = np.stack([rng.integers(5, 34, 17), rng.integers(4, 33, 17), rng.integers(1, 3, 17)], 1)[
        seen
    ]
    return {
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "num_keypoints": int(seen.sum()),
        "area": w * h * 0.6,
        "iscrowd": 0,
        "keypoints": points.reshape(-1).tolist(),
        "image_id": image_id,
        "bbox": [x, y, w, h],
        "category_id": 1,
        "id": number,
    }


@pytest.fixture
def files(write_coco: Write) -> tuple[Path, Path]:
    crowd_mask = np.zeros((40, 60), np.uint8)
    crowd_mask[2:20, 40:58] = 1
    flat = crowd_mask.T.reshape(-1)
    counts = np.diff([0, *np.flatnonzero(np.diff(flat.astype(int))) + 1, flat.size]).tolist()
    crowd = {
        "segmentation": {"counts": counts, "size": [40, 60]},
        "num_keypoints": 0,
        "area": int(crowd_mask.sum()),
        "iscrowd": 1,
        "keypoints": [0] * 51,
        "image_id": 1,
        "bbox": [40, 2, 18, 18],
        "category_id": 1,
        "id": 900100000001,
    }
    unlabelled = {**person(4, 3, 0), "keypoints": [0] * 51, "num_keypoints": 0}
    entries = [person(1, 1, 1), person(2, 2, 2), person(3, 2, 3), crowd, unlabelled]
    return write_coco(entries, ((40, 60), (60, 40), (48, 48), (40, 40)), [PERSON])


def test_check_data_finds_nothing_wrong(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    check_data.main([f"annotations={files[0]}", f"images={files[1]}"])
    printed = capsys.readouterr().out
    for line in (
        "images: 4 (1 without",
        "annotations: 5 (1 crowd",
        "masks: 5",
        "class person: 5",
        "defects: 0",
    ):
        assert line in printed


def test_all_seventeen_are_read_and_written_back(files: tuple[Path, Path]) -> None:
    dataset = CocoDataset(*files)
    assert (dataset.report, dataset.num_keypoints) == ([], 17)
    assert dataset.mirror_keypoints == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    entries = {entry["id"]: entry["keypoints"] for entry in json.loads(files[0].read_text())["annotations"]}
    count = 0
    for index in range(len(dataset)):
        example = dataset.read(index)
        assert example.keypoints is not None
        for number, points in zip(dataset.record(index).annotation_ids, example.keypoints, strict=True):
            expected = np.array(entries[int(number)]).reshape(-1, 3)
            seen = expected[:, 2] > 0
            np.testing.assert_array_equal(np.reshape(to_coco(points), (-1, 3))[seen], expected[seen])
            np.testing.assert_array_equal(points[~seen], 0)
            count += 1
    assert count == 5


def test_the_loader_mirrors_them(files: tuple[Path, Path]) -> None:
    dataset = CocoDataset(*files)
    plain, mirrored = (
        next(
            TrainLoader(
                dataset, Transform(short_side=80, horizontal_flip=p), 4, group_by_aspect=False
            ).batches()
        )
        for p in (0.0, 1.0)
    )
    assert plain.image_ids == mirrored.image_ids
    one, other = plain.targets.keypoints, mirrored.targets.keypoints
    assert one is not None
    assert other is not None
    width = plain.images.sizes[:, 1].reshape(4, 1, 1)
    back = other[:, :, dataset.mirror_keypoints]
    seen = one[..., 2] > 0
    assert int(seen.sum()) == sum(person(n, 1, n)["num_keypoints"] for n in (1, 2, 3))
    torch.testing.assert_close(back[..., 1:], one[..., 1:])
    torch.testing.assert_close(back[..., 0], torch.where(seen, width - one[..., 0], 0))


def test_ground_truth_scored_as_predictions_is_perfect(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = []
    for entry in json.loads(files[0].read_text())["annotations"]:
        if entry["num_keypoints"]:
            height, width = {1: (40, 60), 2: (60, 40)}[entry["image_id"]]
            mask = np.zeros((height, width), np.uint8)
            mask[3:33, 4:34] = 1
            kept = {key: entry[key] for key in ("image_id", "category_id", "bbox", "keypoints")}
            found.append({**kept, "score": 1.0, "segmentation": encode(mask)})
    (tmp_path / "found.json").write_text(json.dumps(found))
    eval_command.main(
        [f"predictions={tmp_path / 'found.json'}", f"annotations={files[0]}", f"run_dir={tmp_path / 'out'}"]
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm", "keypoints"}
    assert set(metrics["keypoints"]) == {"AP", "AP50", "AP75", "APm", "APl"}
    assert metrics["keypoints"]["AP"] == pytest.approx(100)
    assert metrics["bbox"]["AP"] > 70  # the unlabelled person is not among them
