"""The xml files of PASCAL VOC: size, classes and boxes of an image's objects."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskrcnn.data.dataset import ImageRecord
from maskrcnn.data.images import read_image
from maskrcnn.errors import UserError


def class_names(path: Path) -> set[str]:
    """The class names in an annotation file; none if it is broken, which is reported when the image is read."""
    try:
        return {_name(entry) for entry in xml_root(path).findall("object")}
    except UserError:
        return set()


def xml_root(path: Path) -> ElementTree.Element:
    """The root element of an xml file. Raises UserError if it is damaged."""
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid xml ({error}); write or download it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror})") from error


def parse_xml(path: Path, classes: Sequence[str], image: Path, image_id: int = 0) -> ImageRecord:
    """Read an annotation file. Difficult objects are ``crowd``.

    Args:
        path: the xml.
        classes: class names.
        image: the image file. Its size is used if the xml says 0 x 0, as LabelImg sometimes writes.
        image_id: number of the image.

    Raises:
        UserError: the file is missing, broken or incomplete.
    """
    if not path.is_file():
        raise UserError(f"the annotation {path} is missing, but a split lists its image")
    tree = xml_root(path)
    height, width = (_number(tree.find("size"), side, path) for side in ("height", "width"))
    if height == width == 0:
        height, width = read_image(image).shape[:2]
    if min(height, width) < 1:
        raise UserError(f"{path} says the image is {height:g} x {width:g} (height x width)")
    found = enumerate(tree.findall("object"), start=1)
    objects = [_object(entry, path, number, classes) for number, entry in found]
    return ImageRecord(
        image_id=image_id,
        file_name=image.name,
        height=int(height),
        width=int(width),
        boxes=np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], np.int64),
        crowd=np.array([difficult for _, _, difficult in objects], bool),
        annotation_ids=image_id * 1000 + 1 + np.arange(len(objects)),
        segmentations=[None] * len(objects),
    )


def _object(
    entry: ElementTree.Element, path: Path, number: int, classes: Sequence[str]
) -> tuple[list[float], int, bool]:
    name = _name(entry)
    if name not in classes:
        raise UserError(
            f"{path}: object {number} has the class {name!r}, which is none of: {', '.join(classes)}; "
            "data.classes=[...] lists others"
        )
    box = entry.find("bndbox")
    x1, y1, x2, y2 = (_number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise UserError(f"{path}: object {number} has a box of negative size ({x1}, {y1}, {x2}, {y2})")
    difficult = (entry.findtext("difficult") or "0").strip() == "1"
    return [x1 - 1, y1 - 1, x2, y2], list(classes).index(name), difficult


def _name(entry: ElementTree.Element) -> str:
    return (entry.findtext("name") or "").strip()


def _number(parent: ElementTree.Element | None, name: str, path: Path) -> float:
    text = None if parent is None else parent.findtext(name)
    try:
        return float(text or "")
    except ValueError as error:
        raise UserError(f"{path}: <{name}> is {text!r}, not a number") from error
