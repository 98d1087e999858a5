"""tools/check_data.py and tools/prepare_data.py from their command lines."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.cli import check_data, prepare_data
from maskrcnn.errors import UserError


@pytest.fixture
def coco(tmp_path: Path) -> list[str]:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((20, 30, 3), np.uint8))
    entry = {"id": 1, "image_id": 1, "category_id": 4, "bbox": [2, 3, 10, 10], "area": 100, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 30}],
        "annotations": [
            {**entry, "segmentation": [[2, 3, 12, 3, 12, 13, 2, 13]]},
            {**entry, "id": 2, "iscrowd": 1},
        ],
        "categories": [{"id": 4, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return [f"annotations={tmp_path / 'a.json'}", f"images={tmp_path}"]


def test_a_sound_set_is_counted(coco: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_data.main([*coco, f"figure={tmp_path / 'f.png'}"])
    printed = capsys.readouterr().out
    for line in ("images: 1 (0 without", "annotations: 2 (1 crowd", "masks: 1", "class cat: 2", "defects: 0"):
        assert line in printed
    assert cv2.imread(str(tmp_path / "f.png")) is not None


def test_defects_end_with_1_and_the_fixed_file_is_sound(
    coco: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"][1]["category_id"] = 9
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as ended:
        check_data.main([*coco, "--fix"])
    assert ended.value.code == 1
    assert (
        "defect: annotation 2: its category 9 is not listed; list the category or" in capsys.readouterr().out
    )
    check_data.main([f"annotations={tmp_path / 'a_fixed.json'}", f"images={tmp_path}"])
    assert [a["id"] for a in json.loads((tmp_path / "a_fixed.json").read_text())["annotations"]] == [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either annotations="),
        (["annotations=a.json"], "needs images=DIR"),
        (["voc=none"], "is no VOC folder"),
        (["voc=none", "--fix"], "cleans COCO-format json"),
        (["anotations=a.json"], "unknown argument 'anotations=a.json'; known are annotations="),
        (["annotations=none.json", "images=."], "there is no file none.json"),
    ],
)
def test_wrong_arguments_are_said(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_data.main(arguments)


def test_an_unknown_set_is_said() -> None:
    with pytest.raises(UserError, match="one of coco, voc2007, voc2012, sbd and to=DIR"):
        prepare_data.main(["set=imagenet", "to=x"])


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Two images with an outline each, and two images of one name in different folders."""
    for part in ("train/a", "train/b", "val/a"):
        image = tmp_path / "yolo" / "images" / f"{part}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((20, 40, 3), len(part), np.uint8))
        label = tmp_path / "yolo" / "labels" / f"{part}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("1 0.25 0.5 0.5 0.5 0.5 1 0.25 1\n")  # x 10 to 20, y 10 to 20
    (tmp_path / "yolo" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "yolo"


@pytest.mark.parametrize("images", ["copy", "link"])
def test_a_folder_is_written_as_coco(
    images: str, yolo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coco"
    prepare_data.main([f"from={yolo}", f"to={out}", f"images={images}", "data.val_split=val"])
    printed = capsys.readouterr().out
    assert f"{yolo} is read as YOLO labels" in printed
    assert f"wrote {out}/annotations/instances_train.json: 2 images, 2 objects" in printed
    content = json.loads((out / "annotations" / "instances_train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    entry = {"bbox": [10, 10, 10, 10], "area": 100, "category_id": 2, "image_id": 1, "id": 1, "iscrowd": 0}
    assert content["annotations"][0] == {**entry, "segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]]}
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert (out / "train" / "b.png").is_symlink() == (images == "link")
    assert (out / "train" / "b.png").read_bytes() == (yolo / "images" / "train" / "b.png").read_bytes()
    check_data.main(["data=folder", f"data.root={out}", f"figure={tmp_path / 'f.png'}"])
    printed = capsys.readouterr().out
    for line in (
        "is read as COCO jsons",
        "part train\nimages: 2 (0 without",
        "part val\nimages: 1",
        "defects: 0",
    ):
        assert line in printed
    assert cv2.imread(str(tmp_path / "f_val.png")) is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["from={yolo}"], "needs to=OUT"),
        (["from={yolo}", "to={out}", "images=move"], "images= is copy"),
        (["from={yolo}", "to={yolo}/coco"], "lies in .*yolo, which would then hold two formats"),
        (["from={yolo}", "to={yolo}/..", "images=copy"], "is not empty; give a new folder"),
        (["from={out}", "to={out}2"], r"there is no folder data\.root="),
        (["from={yolo}", "to={out}", "data.rectangels=masks"], "unknown key 'data.rectangels'"),
        (["from={yolo}", "to={out}", "data=shapes"], "this command only reads data=folder"),
        (["set=coco", "to={out}", "data.rectangles=masks"], "is for from=DIR"),
    ],
)
def test_wrong_arguments_of_a_conversion_are_said(
    arguments: list[str], words: str, yolo: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        prepare_data.main([argument.format(yolo=yolo, out=tmp_path / "out") for argument in arguments])


def test_a_folder_is_checked_and_cannot_be_fixed(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (yolo / "labels" / "train" / "a.txt").write_text(
        "1 0.5 0.5 0.5 0.5 0.5 0.5\n"
    )  # three corners in one place
    with pytest.raises(SystemExit) as ended:
        check_data.main(["data=folder", f"data.root={yolo}"])
    assert ended.value.code == 1
    assert (
        "defect: annotation 1 of image 1: a box of zero or negative size, dropped" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"tools/prepare_data\.py from=DIR to=OUT writes a folder as such"):
        check_data.main(["data=folder", f"data.root={yolo}", "--fix"])
