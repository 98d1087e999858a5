"""Label Studio's JSON: polygons, brushes, rectangles and ellipses, to the pixel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.folders.label_studio import LabelStudio, unpacked
from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, SIZE, block, check, disc, everything, l_shape, read

# Made by Label Studio's own converter (label_studio_sdk.converter.brush.mask2rle) of the mask `brush` below.
RLE = [
    0,
    0,
    37,
    128,
    57,
    27,
    252,
    127,
    252,
    21,
    204,
    3,
    19,
    255,
    236,
    112,
    12,
    79,
    255,
    177,
    192,
    49,
    63,
    254,
    199,
]
RLE += [0, 196, 255, 252, 78, 236, 3, 9, 255, 237, 176, 12, 39, 255, 182, 192, 48, 159, 255, 7, 95, 0, 0]
L_POINTS = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in L_SHAPE]


def brush() -> np.ndarray:
    return block(3, 30, 8, 33) | block(50, 5, 60, 9) | block(0, 0, 1, 1)


def result(kind: str, labels: list[str], **value: Any) -> dict[str, Any]:
    size = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return {**size, "id": "x", "type": kind, "to_name": "image", "value": {**value, kind: labels}}


def task(image: str, *results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"id": 1, "result": list(results)}], **changes}


def write(root: Path, *tasks: dict[str, Any]) -> None:
    (root / "export.json").write_text(json.dumps(tasks))


def test_the_run_lengths_of_brushes_are_decoded() -> None:
    values = unpacked(bytes(RLE)).reshape(*SIZE, 4)
    np.testing.assert_array_equal(values[..., 3] != 0, brush())


def test_every_shape_is_read_to_the_pixel(picture: Callable[..., Path]) -> None:
    path = picture("images/a.jpg")
    x, y = 100 / SIZE[1], 100 / SIZE[0]
    write(
        path.parents[1],
        task(
            "/data/upload/3/1a2b3c4d-a.jpg",
            result("polygonlabels", ["screw"], points=L_POINTS, closed=True),
            result("brushlabels", ["nut"], rle=RLE, format="rle"),
            result("rectanglelabels", ["nut"], x=40 * x, y=20 * y, width=10 * x, height=15 * y, rotation=0),
            result("rectanglelabels", ["nut"], x=20 * x, y=28 * y, width=6 * x, height=4 * y, rotation=90),
            result(
                "ellipselabels", ["nut"], x=45.5 * x, y=12 * y, radiusX=9.7 * x, radiusY=4.2 * y, rotation=30
            ),
            result("keypointlabels", ["nut"], x=3, y=3, width=0.2),
        ),
    )
    dataset = everything(path.parents[1], rectangles="masks")
    check(
        read(dataset)["images/a.jpg"],
        ("screw", l_shape()),
        ("nut", brush()),
        ("nut", block(40, 20, 50, 35)),
        ("nut", block(16, 28, 20, 34)),  # a quarter turn about its top left corner
        ("nut", disc(45.5, 12, 9.7, 4.2, 30)),
    )
    assert dataset.report[1:] == ["left out 1 x keypointlabels, which has no area"]


@pytest.mark.parametrize(
    "reference",
    [
        "/data/local-files/?d=images%2Fsome%20a.jpg",
        "s3://bucket/some%20a.jpg",
        "C:\\images\\some a.jpg",
        "images/some a.jpg",
    ],
)
def test_images_are_found_however_they_are_named(reference: str, picture: Callable[..., Path]) -> None:
    root = picture("images/some a.jpg").parents[1]
    write(root, task(reference, result("polygonlabels", ["screw"], points=L_POINTS)))
    check(read(everything(root))["images/some a.jpg"], ("screw", l_shape()))


def test_several_annotators_are_refused_until_one_is_chosen(picture: Callable[..., Path]) -> None:
    root = picture("a.jpg").parent
    results = [[result("polygonlabels", [name], points=L_POINTS)] for name in ("screw", "nut", "bolt")]
    done = [{"result": found} for found in results[:2]] + [{"result": results[2], "was_cancelled": True}]
    write(root, task("a.jpg", annotations=done))
    with pytest.raises(
        UserError, match=r"task 7 has 2 annotations: leave one, or set data\.formats\.label_studio"
    ):
        everything(root)
    for choice, name in (("first", "screw"), ("last", "nut")):
        formats = {"label_studio": LabelStudio(choice)}  # type: ignore[arg-type]
        check(read(everything(root, formats=formats))["a.jpg"], (name, l_shape()))


def test_tasks_without_annotations_are_left_out(picture: Callable[..., Path]) -> None:
    root = picture("a.jpg").parent
    for name in ("b.jpg", "c.jpg"):
        picture(name)
    full = task("a.jpg", result("polygonlabels", ["nut"], points=L_POINTS))
    write(root, full, task("b.jpg", annotations=[]), task("c.jpg"))
    dataset = everything(root)
    assert sorted(read(dataset)) == ["a.jpg", "c.jpg"]
    assert dataset.report[1].startswith("left out 1 images without annotations")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            [{"id": 1, "image": "a.jpg", "label": [], "annotation_id": 3}],
            r"JSON-MIN, which leaves shapes out: export",
        ),
        ([task("b.jpg")], r"1 images that the annotations name are missing \(b\.jpg\)"),
        (
            [task("a.jpg", result("polygonlabels", ["x", "y"], points=L_POINTS))],
            r"has the labels x, y; give it one",
        ),
        (
            [task("a.jpg", result("brushlabels", ["x"], rle=[1, 2, 3]))],
            r"result 0 cannot be read .* draw it again",
        ),
        (
            [task("a.jpg", data={"left": "a.jpg", "right": "b.jpg"})],
            r"has 2 values that name an image \(left, right\)",
        ),
    ],
)
def test_what_cannot_be_read_is_named(picture: Callable[..., Path], content: Any, words: str) -> None:
    root = picture("a.jpg").parent
    write(root, *content)
    with pytest.raises(UserError, match=words):
        everything(root)
