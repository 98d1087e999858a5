"""LabelMe's files: polygons, rectangles, circles, masks and groups, to the pixel."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.data.folders.source import FolderSource
from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, SIZE, block, check, disc, everything, l_shape, read


def shape(
    label: str, points: Any, kind: str = "polygon", group: int | None = None, **more: Any
) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, **more}


def describe(path: Path, *shapes: dict[str, Any], **changes: Any) -> None:
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": path.name,
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }
    path.with_suffix(".json").write_text(json.dumps({**content, **changes}))


def test_every_shape_is_read_to_the_pixel(picture: Callable[..., Path]) -> None:
    bits = np.zeros((8, 6), np.uint8)
    bits[2:5, 1:] = 255
    encoded = base64.b64encode(cv2.imencode(".png", bits)[1].tobytes()).decode()
    describe(
        picture("a.jpg"),
        shape("screw", L_SHAPE),
        shape("nut", [[50, 30], [40, 20]], "rectangle"),
        shape("disc", [[45.5, 12], [45.5, 18.3]], "circle"),
        shape("brush", [[2, 28], [7, 35]], "mask", mask=encoded),
        shape("nut", [[1, 1], [5, 5]], "line"),
        shape("nut", [[3, 3]], "point"),
    )
    describe(
        picture("b.jpg"),
        shape("nut", [[0, 0], [4, 0], [4, 4], [0, 4]], group=1),
        shape("nut", [[20, 20], [30, 20], [30, 30], [20, 30]], group=1),
        shape("screw", [[40, 0], [50, 0], [50, 5], [40, 5]], group=1),
        shape("nut", [[10, 10], [10, 14]], "circle", group=2),
        shape("nut", [[50, 30], [56, 30], [56, 38], [50, 38]], group=2),
    )
    dataset = everything(picture("a.jpg").parent, rectangles="masks")
    found = read(dataset)
    brush = block(3, 30, 8, 33)
    a = [
        ("screw", l_shape()),
        ("nut", block(40, 20, 50, 30)),
        ("disc", disc(45.5, 12, 6.3, 6.3)),
        ("brush", brush),
    ]
    check(found["a.jpg"], *a)
    grouped = block(0, 0, 4, 4) | block(20, 20, 30, 30)
    b = [
        ("nut", grouped),
        ("screw", block(40, 0, 50, 5)),
        ("nut", disc(10, 10, 4, 4) | block(50, 30, 56, 38)),
    ]
    check(found["b.jpg"], *b)
    assert [c["name"] for c in dataset.categories] == ["brush", "disc", "nut", "screw"]
    assert dataset.report[0].endswith("data is read as LabelMe")
    assert dataset.report[1:] == [
        "left out 1 x a line, which has no area",
        "left out 1 x a point, which has no area",
    ]


def test_rectangles_alone_are_boxes_and_a_mixture_is_refused(picture: Callable[..., Path]) -> None:
    path = picture("a.jpg")
    describe(path, shape("nut", [[50, 30], [40, 20]], "rectangle"))
    dataset = everything(path.parent)
    assert read(dataset) == {"a.jpg": [("nut", [40, 20, 50, 30])]}
    assert not dataset.has_masks
    assert "1 rectangles are read as boxes without masks" in dataset.report[1]
    describe(path, shape("nut", [[50, 30], [40, 20]], "rectangle"), shape("screw", L_SHAPE))
    with pytest.raises(UserError, match=r"1 rectangles among 1 outlines: data\.rectangles=masks takes"):
        everything(path.parent)
    objects = read(everything(path.parent, rectangles="boxes"))["a.jpg"]
    check(objects, ("nut", [40, 20, 50, 30]), ("screw", l_shape()))


def test_parts_and_images_without_a_json(picture: Callable[..., Path]) -> None:
    for name in ("train/a.jpg", "train/b.jpg", "valid/c.jpg"):
        describe(picture(name), shape("nut", L_SHAPE))
    picture("train/d.jpg")
    root = picture("train/a.jpg").parents[1]
    source = FolderSource(str(root))
    train, val = source.train(), source.val()
    assert val is not None
    assert (sorted(read(train)), sorted(read(val))) == (["train/a.jpg", "train/b.jpg"], ["valid/c.jpg"])
    assert train.report[1].startswith("left out 1 images without annotations")
    background = FolderSource(str(root), unlabelled="background").train()
    assert read(background)["train/d.jpg"] == []


def test_a_picture_of_another_machine_is_found_and_what_is_missing_is_named(
    picture: Callable[..., Path],
) -> None:
    path = picture("images/a.jpg")
    (path.parents[1] / "labels").mkdir()
    described = path.parents[1] / "labels" / "a.jpg"
    describe(described, shape("nut", L_SHAPE), imagePath="C:\\work\\images\\a.jpg")
    check(read(everything(path.parents[1]))["images/a.jpg"], ("nut", l_shape()))
    describe(described, imagePath="b.jpg")
    with pytest.raises(
        UserError, match=r"1 images that the annotations name are missing \(b\.jpg\); add them"
    ):
        everything(path.parents[1])


@pytest.mark.parametrize(
    "broken", [{"label": "nut"}, {"label": "x", "points": [[1, 2]], "shape_type": "circle"}]
)
def test_a_broken_shape_is_named(picture: Callable[..., Path], broken: dict[str, Any]) -> None:
    path = picture("a.jpg")
    describe(path, broken)
    with pytest.raises(UserError, match=r"a\.json: shape 0 cannot be read .*; draw it again"):
        everything(path.parent)
    path.with_suffix(".json").write_text("{}")
    describe(picture("0.jpg"))
    with pytest.raises(UserError, match=r"a\.json is among LabelMe's files but is not one of them"):
        everything(path.parent)
