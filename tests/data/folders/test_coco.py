"""COCO jsons in the layouts of Roboflow, COCO, CVAT, Label Studio and of people, to the pixel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.data.folders.source import FolderSource
from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, SIZE, block, check, everything, l_shape, read

CATEGORIES = [{"id": 1, "name": "screw"}, {"id": 2, "name": "nut"}]
FLAT = [float(value) for point in L_SHAPE for value in point]


def content(*names: str, categories: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Each image with an L (a nut) and, as run lengths column by column, columns 2 to 4 of the image (a screw)."""
    images = [
        {"id": k, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for k, name in enumerate(names, 1)
    ]
    runs = {"size": list(SIZE), "counts": [2 * SIZE[0], 3 * SIZE[0], 55 * SIZE[0]]}
    annotations = []
    for k in range(1, len(names) + 1):
        nut = {"id": 2 * k, "image_id": k, "category_id": 2, "segmentation": [FLAT], "iscrowd": 0}
        screw = {"id": 2 * k + 1, "image_id": k, "category_id": 1, "segmentation": runs, "iscrowd": 0}
        annotations += [{**nut, "bbox": [10, 5, 20, 20]}, {**screw, "bbox": [2, 0, 3, 40]}]
    return {"images": images, "annotations": annotations, "categories": categories or CATEGORIES}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


LAYOUTS: dict[str, dict[str, list[str]]] = {
    "roboflow": {
        "train/_annotations.coco.json": ["train/a.jpg"],
        "valid/_annotations.coco.json": ["valid/b.jpg"],
    },
    "coco": {
        "annotations/instances_train2017.json": ["train2017/a.jpg"],
        "annotations/instances_val2017.json": ["val2017/b.jpg"],
    },
    "cvat": {
        "annotations/instances_train.json": ["images/train/a.jpg"],
        "annotations/instances_val.json": ["images/val/b.jpg"],
    },
    "in a folder": {
        "mine/annotations/instances_train2017.json": ["mine/train2017/a.jpg"],
        "mine/annotations/instances_val2017.json": ["mine/val2017/b.jpg"],
    },
    "beside": {"train.json": ["train/a.jpg"], "val.json": ["val/b.jpg"]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_with_parts_are_read_to_the_pixel(
    layout: str, picture: Callable[..., Path], tmp_path: Path
) -> None:
    for file, names in LAYOUTS[layout].items():
        for name in names:
            picture(name)
        write(tmp_path / "data" / file, content(*(Path(name).name for name in names)))
    source = FolderSource(str(tmp_path / "data"))
    train, val = source.train(), source.val()
    assert val is not None
    for dataset, name in ((train, "a.jpg"), (val, "b.jpg")):
        check(read(dataset)[name], ("nut", l_shape()), ("screw", block(2, 0, 5, 40)))
        assert "is read as COCO jsons" in dataset.report[0]
    truth = val.ground_truth()
    assert [a["bbox"] for a in truth["annotations"]] == [[10, 5, 20, 20], [2, 0, 3, 40]]
    assert [a["area"] for a in truth["annotations"]] == [300, 120]


def test_files_with_cocos_names_are_not_read_to_find_the_format(
    picture: Callable[..., Path], tmp_path: Path
) -> None:
    picture("train2017/a.jpg")
    write(tmp_path / "data/annotations/instances_train2017.json", content("a.jpg"))
    (tmp_path / "data/annotations/captions_train2017.json").write_text("{ not a json")
    check(read(everything(tmp_path / "data"))["a.jpg"], ("nut", l_shape()), ("screw", block(2, 0, 5, 40)))


@pytest.mark.parametrize(
    ("file", "stored"), [("result.json", "images/a.jpg"), ("annotations/instances_default.json", "a.jpg")]
)
def test_label_studios_and_cvats_whole_exports_are_divided(
    file: str, stored: str, picture: Callable[..., Path], tmp_path: Path
) -> None:
    names = [f"{stored[:-5]}{k}.jpg" for k in range(10)]
    for name in names:
        picture(f"images/{Path(name).name}")
    write(tmp_path / "data" / file, content(*names))
    source = FolderSource(str(tmp_path / "data"))
    train, val = source.train(), source.val()
    assert val is not None
    found = read(train) | read(val)
    assert sorted(found) == names
    assert len(train) + len(val) == 10
    for objects in found.values():
        check(objects, ("nut", l_shape()), ("screw", block(2, 0, 5, 40)))
    words = f"no validation split: {len(val)} of 10 images are validated on, chosen by their names (data.val_share=0.2)"
    assert train.report[-1] == val.report[-1] == words


def test_roboflows_name_of_the_project_is_no_class(picture: Callable[..., Path], tmp_path: Path) -> None:
    named = [{**c, "supercategory": "parts"} for c in CATEGORIES]
    for part in ("train", "valid"):
        picture(f"{part}/a.jpg")
        root = {"id": 0, "name": "parts", "supercategory": "none"}
        write(
            tmp_path / "data" / part / "_annotations.coco.json", content("a.jpg", categories=[root, *named])
        )
    dataset = FolderSource(str(tmp_path / "data")).train()
    assert [c["name"] for c in dataset.categories] == ["screw", "nut"]
    assert "left out the class 'parts', which has no object: Roboflow's name of the project" in dataset.report


def test_two_jsons_of_one_part_are_refused(picture: Callable[..., Path], tmp_path: Path) -> None:
    picture("train/a.jpg")
    for name in ("train.json", "train_old.json"):
        write(tmp_path / "data" / name, content("a.jpg"))
    with pytest.raises(
        UserError, match=r"2 COCO jsons for the split 'train' \(.*train\.json, .*train_old\.json\)"
    ):
        everything(tmp_path / "data")


def test_half_an_export_is_named(picture: Callable[..., Path], tmp_path: Path) -> None:
    names = [f"{k}.jpg" for k in range(5)]
    write(tmp_path / "data" / "train" / "_annotations.coco.json", content(*names))
    with pytest.raises(
        UserError, match=r"most image files are missing: 5 of 5 are not in .*; point the images folder"
    ):
        everything(tmp_path / "data")
    for name in names:
        picture(f"train/{name}")
    (tmp_path / "data" / "train" / "_annotations.coco.json").unlink()
    with pytest.raises(
        UserError, match=r"no annotations of a known format, but 5 files \.jpg; data\.format= can be"
    ):
        everything(tmp_path / "data")
