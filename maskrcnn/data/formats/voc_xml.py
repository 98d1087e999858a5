"""The xml files of PASCAL VOC: size, classes and boxes of an image's objects."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maskrcnn.data.images import read_image
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class VocAnnotation:
    """The content of an xml file.

    Attributes:
        height: of the image in pixels.
        width: of the image in pixels.
        boxes: ``[G, 4]`` float32, continuous.
        labels: ``[G]`` int64.
        difficult: ``[G]`` bool.
    """

    height: int
    width: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]


def class_names(path: Path) -> set[str]:
    """The class names in an annotation file; none if it is broken, which is reported when the image is read."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return set()
    return {_name(entry) for entry in root.findall("object")}


def parse_xml(path: Path, classes: Sequence[str], image: Path) -> VocAnnotation:
    """Read an annotation file.

    Args:
        path: the xml.
        classes: class names.
        image: the image file. Its size is used if the xml says 0 x 0, as LabelImg sometimes writes.

    Raises:
        UserError: the file is missing, broken or incomplete.
    """
    try:
        tree = ElementTree.parse(path)
    except FileNotFoundError as error:
        raise UserError(f"the annotation {path} is missing, but a split lists its image") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid xml ({error}); unpack or download it again") from error
    height, width = (_number(tree.find("size"), side, path) for side in ("height", "width"))
    if height == width == 0:
        height, width = read_image(image).shape[:2]
    if min(height, width) < 1:
        raise UserError(f"{path} says the image is {height:g} x {width:g} (height x width)")
    found = enumerate(tree.findall("object"), start=1)
    objects = [_object(entry, path, number, classes) for number, entry in found]
    return VocAnnotation(
        height=int(height),
        width=int(width),
        boxes=np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], bool),
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
