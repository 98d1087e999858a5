"""CVAT for images 1.1, to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data.folders.source import FolderSource
from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, SIZE, block, check, disc, everything, l_shape, read

L_POINTS = ";".join(f"{x:.2f},{y:.2f}" for x, y in L_SHAPE)


def write(root: Path, *images: str) -> None:
    header = '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><job/></meta>'
    (root / "annotations.xml").write_text(f"{header}{''.join(images)}</annotations>")


def image(name: str, *shapes: str, more: str = "") -> str:
    size = f'width="{SIZE[1]}" height="{SIZE[0]}"'
    return f'<image id="0" name="{name}" {size} {more}>{"".join(shapes)}</image>'


def test_every_shape_is_read_to_the_pixel(picture: Callable[..., Path]) -> None:
    root = picture("images/a.jpg").parents[1]
    write(
        root,
        image(
            "a.jpg",
            f'<polygon label="screw" source="manual" occluded="0" points="{L_POINTS}" z_order="0"/>',
            '<box label="nut" xtl="40.00" ytl="20.00" xbr="50.00" ybr="35.00" z_order="0"/>',
            '<box label="nut" xtl="2.00" ytl="20.00" xbr="12.00" ybr="24.00" rotation="90.0"/>',
            '<ellipse label="nut" cx="45.50" cy="12.00" rx="9.70" ry="4.20" rotation="30.0"/>',
            '<mask label="screw" rle="1, 2, 1, 4" left="50" top="30" width="4" height="2"/>',
            '<polyline label="nut" points="1,1;5,5"/>',
            '<tag label="good"/>',
            '<box label="nut" xtl="0" ytl="0" xbr="4" ybr="4" group_id="3"/>',
            '<polygon label="nut" points="10,0;14,0;14,4;10,4" group_id="3"/>',
        ),
    )
    brush = np.zeros(SIZE, np.uint8)
    brush[30, 51:53] = brush[31, 50:54] = 1
    dataset = everything(root, rectangles="masks")
    check(
        read(dataset)["images/a.jpg"],
        ("screw", l_shape()),
        ("nut", block(40, 20, 50, 35)),
        ("nut", block(5, 17, 9, 27)),  # a quarter turn about its middle (7, 22)
        ("nut", disc(45.5, 12, 9.7, 4.2, 30)),
        ("screw", brush),
        ("nut", block(0, 0, 4, 4) | block(10, 0, 14, 4)),
    )
    assert dataset.report[1:] == ["left out 1 x a <polyline>, which has no area"]


def test_subsets_are_parts(picture: Callable[..., Path]) -> None:
    for part in ("train", "val"):
        picture(f"images/{part}/a_{part}.jpg")
    root = picture("images/train/a_train.jpg").parents[2]
    polygon = f'<polygon label="screw" points="{L_POINTS}"/>'
    write(root, *(image(f"a_{part}.jpg", polygon, more=f'subset="{part}"') for part in ("train", "val")))
    source = FolderSource(str(root))
    val = source.val()
    assert val is not None
    check(read(source.train())["images/train/a_train.jpg"], ("screw", l_shape()))
    check(read(val)["images/val/a_val.jpg"], ("screw", l_shape()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '<track id="0" label="nut"/>',
            r"is CVAT for video, with tracks: export CVAT for images 1\.1, or COCO",
        ),
        (image("b.jpg"), r"1 images that the annotations name are missing \(b\.jpg\)"),
        (image("a.jpg", '<polygon label="x" points="1;2"/>'), r"shape 0 of a\.jpg cannot be read"),
        (image("a.jpg", '<box label="x" xtl="1"/>'), r"shape 0 of a\.jpg cannot be read"),
        (
            image("a.jpg", '<mask label="x" rle="1,2" left="0" top="0" width="9" height="9"/>'),
            r"shape 0 of a\.jpg cannot be read",
        ),
    ],
)
def test_what_cannot_be_read_is_named(picture: Callable[..., Path], content: str, words: str) -> None:
    root = picture("images/a.jpg").parents[1]
    write(root, content)
    with pytest.raises(UserError, match=words):
        everything(root)
