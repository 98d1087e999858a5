"""CVAT for images 1.1: one xml for all images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskrcnn.data.folders.entries import Entries, Image, Outline, Size, readable
from maskrcnn.data.folders.folder import Folder, Part, part_called
from maskrcnn.data.formats.voc_xml import xml_root
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class Cvat:
    """CVAT's xml. Shapes with the same label and group form one object. An ellipse becomes the pixels inside it."""

    title = "CVAT for images (xml)"
    layout = "annotations.xml with <image>, and images/"

    def recognises(self, folder: Folder) -> bool:
        return any(root.tag == "annotations" for root in folder.xml_samples)

    def read(self, folder: Folder) -> dict[str, Part]:
        entries = Entries(folder)
        for path in folder.ending(".xml"):
            root = xml_root(path)
            if root.find("track") is not None:
                raise UserError(f"{path} is CVAT for video, with tracks: export CVAT for images 1.1, or COCO")
            for element in root.findall("image"):
                size = int(element.get("height", 0)), int(element.get("width", 0))
                part = part_called(element.get("subset", ""))
                image = entries.named(element.get("name", ""), folder.root / "images", size, part)
                if image is not None:
                    _add_objects(entries, image, element, path)
        entries.unlabelled(folder.images)
        return entries.parts()


def _add_objects(entries: Entries, image: Image, element: ElementTree.Element, path: Path) -> None:
    for place, shape in enumerate(element):
        with readable(f"{path}: shape {place} of {element.get('name')}"):
            outline = _outline(shape, image.size)
        if outline is not None:
            group = shape.get("group_id", "0")
            entries.add(image, shape.get("label", ""), outline, None if group == "0" else group)
        elif shape.tag != "tag":  # a tag belongs to the image
            entries.leave_out(image, f"a <{shape.tag}>, which has no area")


def _outline(shape: ElementTree.Element, size: Size) -> Outline | None:
    """The outline of a shape; None for shapes without area: points, polylines, skeletons, tags."""

    def numbers(*names: str) -> list[float]:
        return [float(shape.get(name)) for name in names]  # type: ignore[arg-type]

    turn = float(shape.get("rotation", 0))
    if shape.tag == "polygon":
        return Outline.polygon([tuple(map(float, p.split(","))) for p in shape.get("points", "").split(";")])
    if shape.tag == "box":
        x1, y1, x2, y2 = numbers("xtl", "ytl", "xbr", "ybr")
        return Outline.rectangle(x1, y1, x2, y2).turned(turn, (x1 + x2) / 2, (y1 + y2) / 2)
    if shape.tag == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        return Outline.ellipse(x, y, rx, ry, size, turn)
    if shape.tag == "mask":
        left, top, width, height = (int(number) for number in numbers("left", "top", "width", "height"))
        runs = [int(run) for run in shape.get("rle", "").split(",")]
        bits = np.repeat(np.arange(len(runs)) % 2, runs)  # run lengths of 0 and 1 in turn, row by row
        return Outline.pixels(bits.reshape(height, width), size, left, top)
    return None
