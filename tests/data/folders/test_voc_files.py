"""Pascal VOC in `data=folder`: masks of SegmentationObject, and xml files next to their images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data.folders.source import FolderSource
from maskrcnn.errors import UserError
from tests.data.conftest import write_voc  # noqa: F401
from tests.data.folders.conftest import SIZE, check, everything, read

OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
)


def describe(path: Path, *objects: str, name: str | None = None) -> None:
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(f"{entry}</object>" for entry in objects)
    path.with_suffix(".xml").write_text(
        f"<annotation><filename>{name or path.name}</filename>{size}{body}</annotation>"
    )


def test_published_masks_are_read_to_the_pixel(write_voc: Callable[..., Path]) -> None:  # noqa: F811
    root = write_voc([("dog", (3, 2, 12, 11), 0), ("cat", (15, 5, 30, 20), 0)])
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("000007\n")
    source = FolderSource(str(root.parent))
    dog, cat = np.zeros((24, 32), np.uint8), np.zeros((24, 32), np.uint8)
    dog[3:9, 4:10], cat[6:18, 16:28] = 1, 1
    for dataset in (source.train(), source.val()):
        assert dataset is not None
        check(read(dataset)["000007.jpg"], ("dog", dog), ("cat", cat))
        assert dataset.report[1].startswith(
            "the images of ImageSets/Segmentation (data.formats.voc.image_sets="
        )


def test_xml_files_next_to_their_images_are_boxes(picture: Callable[..., Path]) -> None:
    polygon = "<polygon><x1>1</x1><y1>1</y1><x2>9</x2><y2>1</y2><x3>9</x3><y3>9</y3></polygon>"
    path = picture("train/a.jpg")
    describe(path, OBJECT.format("nut", 11, 6, 30, 25) + polygon, OBJECT.format("bolt", 1, 1, 60, 40))
    picture("train/b.png")
    describe(path.parent / "b.png", OBJECT.format("nut", 2, 3, 4, 5), name="of_another_name.jpg")
    describe(picture("valid/c.jpg"), OBJECT.format("nut", 1, 1, 2, 2))
    dataset = FolderSource(str(path.parents[1])).train()
    found = read(dataset)
    assert found["train/a.jpg"] == [("nut", [10, 5, 30, 25]), ("bolt", [0, 0, 60, 40])]
    assert found["train/b.png"] == [("nut", [1, 2, 4, 5])]
    assert [c["name"] for c in dataset.categories] == ["bolt", "nut"]
    assert (
        "left out 1 x an outline in an xml, of which the box is read; a COCO export has it" in dataset.report
    )


def test_xml_files_in_a_folder_of_their_own_find_their_images(picture: Callable[..., Path]) -> None:
    path = picture("images/a.jpg")
    describe(path.parents[1] / "annotations" / "a.jpg", OBJECT.format("nut", 2, 3, 4, 5))
    assert read(everything(path.parents[1])) == {"images/a.jpg": [("nut", [1, 2, 4, 5])]}
    path.unlink()
    with pytest.raises(UserError, match=r"1 images that the annotations name are missing \(a\.jpg\)"):
        everything(path.parents[1])


def test_a_damaged_or_foreign_xml_is_named(picture: Callable[..., Path]) -> None:
    path = picture("a.jpg")
    describe(path, OBJECT.format("nut", 2, 3, 4, 5))
    (path.parent / "b.xml").write_text("<note/>")
    with pytest.raises(
        UserError, match=r"b\.xml is among VOC's files but is not one of them \(<note>\): move it away"
    ):
        everything(path.parent)
    (path.parent / "b.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"b\.xml is not valid xml .* write or download it again"):
        everything(path.parent)
