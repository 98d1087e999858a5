"""VIA's json, as a project and as exported annotations, to the pixel."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, block, check, disc, everything, l_shape, read

XS, YS = map(list, zip(*L_SHAPE, strict=True))
POLYGON = {"name": "polygon", "all_points_x": XS, "all_points_y": YS}


def region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def image(name: str, *regions: dict[str, Any]) -> dict[str, Any]:
    return {"filename": name, "size": 1234, "regions": list(regions), "file_attributes": {}}


@pytest.mark.parametrize("project", [True, False])
def test_every_shape_is_read_to_the_pixel(project: bool, picture: Callable[..., Path]) -> None:
    path = picture("a.jpg")
    picture("b.jpg")
    described = image(
        "a.jpg",
        region(POLYGON, kind="screw"),
        region({"name": "rect", "x": 40, "y": 20, "width": 10, "height": 15}, kind="nut"),
        region({"name": "circle", "cx": 45.5, "cy": 12, "r": 6.3}, kind="nut"),
        region(
            {"name": "ellipse", "cx": 20, "cy": 30, "rx": 9.7, "ry": 4.2, "theta": math.radians(30)},
            kind="nut",
        ),
        region({"name": "point", "cx": 3, "cy": 3}, kind="nut"),
        region(POLYGON, kind=""),
    )
    images = {"a.jpg1234": described, "b.jpg1234": image("b.jpg")}
    content = {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}} if project else images
    (path.parent / "via.json").write_text(json.dumps(content))
    dataset = everything(path.parent, rectangles="masks")
    found = read(dataset)
    tilted = disc(20, 30, 9.7, 4.2, 30)
    check(
        found["a.jpg"],
        ("screw", l_shape()),
        ("nut", block(40, 20, 50, 35)),
        ("nut", disc(45.5, 12, 6.3, 6.3)),
        ("nut", tilted),
    )
    assert found["b.jpg"] == []
    assert dataset.report[1:] == [
        "left out 1 x a point, which has no area",
        "left out 1 x a region without a class",
    ]


def test_the_class_is_the_only_attribute_or_the_named_one(picture: Callable[..., Path]) -> None:
    path = picture("a.jpg")

    def write(**attributes: Any) -> None:
        (path.parent / "via.json").write_text(
            json.dumps({"a": image("a.jpg", region(POLYGON, **attributes))})
        )

    write(kind="screw", quality="good")
    with pytest.raises(
        UserError, match=r"attributes kind, quality; set data\.formats\.via\.attribute= to the one"
    ):
        everything(path.parent)
    from maskrcnn.data.folders.via import Via

    check(read(everything(path.parent, formats={"via": Via("quality")}))["a.jpg"], ("good", l_shape()))
    write(kind={"screw": True, "nut": False})
    check(read(everything(path.parent))["a.jpg"], ("screw", l_shape()))
    write(kind={"screw": True, "nut": True})
    with pytest.raises(UserError, match=r"has the classes screw, nut in 'kind'; tick one of them"):
        everything(path.parent)
    write()
    with pytest.raises(UserError, match=r"no attribute with a class; set data\.classes=\[NAME\]"):
        everything(path.parent)
    check(read(everything(path.parent, classes=["leaf"]))["a.jpg"], ("leaf", l_shape()))


def test_half_an_export_is_named(picture: Callable[..., Path]) -> None:
    path = picture("a.jpg")
    content = {name: image(name, region(POLYGON, kind="nut")) for name in ("a.jpg", "b.jpg")}
    (path.parent / "via.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"1 images that the annotations name are missing \(b\.jpg\)"):
        everything(path.parent)
    del content["b.jpg"]
    (path.parent / "via.json").write_text(json.dumps(content))
    for name in ("c.jpg", "d.jpg"):
        picture(name)
    with pytest.raises(
        UserError, match=r"is incomplete: 2 of its 3 images have no annotations \(c\.jpg, d\.jpg\)"
    ):
        everything(path.parent)
    broken = {"a": image("a.jpg", region({"name": "rect", "x": 1}, kind="nut"))}
    (path.parent / "via.json").write_text(json.dumps(broken))
    with pytest.raises(
        UserError, match=r"via\.json: the region .* cannot be read \(KeyError\('y'\)\); draw it again"
    ):
        everything(path.parent)
