"""Image files under the names that labelling tools write."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.formats.coco_json import load_annotations, select
from maskrcnn.errors import UserError

from .conftest import annotation

Write = Callable[..., Any]

# What the file is called below the folder, and what the json says.
FOUND = {
    "Windows' separators": ("sub/1.png", "sub\\1.png"),
    "a path of another machine": ("1.png", "C:\\Users\\me\\data\\images\\1.png"),
    "Label Studio's upload": ("1.png", "..\\..\\label-studio\\media\\upload\\4\\1.png"),
    "mixed separators": ("1.png", "images\\1/1.png"),
    "the folder's own name": ("1.png", "train/1.png"),
    "a subfolder": ("deep/er/1.png", "1.png"),
    "percent-encoded": ("d\u00e9cran 1.png", quote("d\u00e9cran 1.png")),
    "another case of the extension": ("1.PNG", "1.png"),
    "another case": ("IMG_1.png", "img_1.png"),
    "another extension": ("1.png", "1.jpg"),
    "another Unicode form": (unicodedata.normalize("NFD", "\u00fcber 1.png"), "\u00fcber 1.png"),
}


def renamed(write: Write, stored: str, listed: str) -> tuple[Path, Path]:
    path, folder = write([annotation(1), annotation(2, image_id=2)])
    (folder / stored).parent.mkdir(parents=True, exist_ok=True)
    (folder / "1.png").rename(folder / stored)
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = listed
    path.write_text(json.dumps(data))
    return path, folder


@pytest.mark.parametrize("kind", FOUND)
def test_files_are_found_as_a_person_would(write_coco: Write, kind: str) -> None:
    stored, listed = FOUND[kind]
    path, folder = renamed(write_coco, stored, listed)
    dataset = CocoDataset(path, folder)
    assert dataset.image_info(0)[0] == stored
    assert dataset.read(0).image.shape == (40, 60, 3)
    # A backslash alone is no other name.
    assert len(dataset.report) == (0 if listed.replace("\\", "/") == stored else 1)
    assert all("1 x its file was found under another name (image 1:" in line for line in dataset.report)


def test_of_several_files_the_one_with_most_of_the_path_is_taken(write_coco: Write) -> None:
    path, folder = renamed(write_coco, "a/x/1.png", "other/a/x/1.png")
    (folder / "b" / "x").mkdir(parents=True)
    (folder / "b" / "x" / "1.png").write_bytes((folder / "2.png").read_bytes())
    assert CocoDataset(path, folder).image_info(0)[0] == "a/x/1.png"


def test_it_is_not_guessed_which_of_several_files_is_meant(write_coco: Write) -> None:
    path, folder = renamed(write_coco, "a/1.png", "1.png")
    (folder / "b").mkdir()
    (folder / "b" / "1.png").write_bytes((folder / "2.png").read_bytes())
    with pytest.raises(UserError, match=r"several files could be its own: a/1\.png, b/1\.png \(image 1\)"):
        CocoDataset(path, folder)


def test_objects_of_a_missing_file_are_not_called_unlisted(write_coco: Write) -> None:
    path, folder = write_coco([annotation(1), annotation(2, image_id=2)])
    (folder / "1.png").unlink()
    (defect,) = select(load_annotations(path), folder).defects
    assert str(defect).startswith(f"image 1 (1.png): its file is missing in {folder}")


def test_the_folder_that_has_the_files_is_named(write_coco: Write, tmp_path: Path) -> None:
    sizes = ((20, 30),) * 9
    path, folder = write_coco([annotation(1, bbox=[1, 1, 5, 5])], sizes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        CocoDataset(path, tmp_path / "empty")
    (line,) = str(caught.value).splitlines()
    assert "most image files are missing: 9 of 9" in line
    assert f"{folder} holds such files" in line
