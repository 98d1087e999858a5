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
