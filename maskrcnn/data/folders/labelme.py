"""LabelMe: a json with shapes for each image."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from maskrcnn.data.folders.entries import Entries, Image, Outline, Size, readable
from maskrcnn.data.folders.folder import Folder, Part
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class LabelMe:
    """LabelMe's files.

    Shapes with the same label and ``group_id`` form one object. A circle becomes the pixels inside it.
    """

    title = "LabelMe"
    layout = "a json with 'shapes' for each image"

    def recognises(self, folder: Folder) -> bool:
        return any(_is_labelme(content) for content in folder.json_samples.values())

    def read(self, folder: Folder) -> dict[str, Part]:
        entries = Entries(folder)
        for path in folder.ending(".json"):
            content = folder.json(path)
            if not _is_labelme(content):
                raise UserError(
                    f"{path} is among LabelMe's files but is not one of them (no 'shapes'): move it away"
                )
            height, width = content.get("imageHeight"), content.get("imageWidth")
            name = str(content.get("imagePath") or path.with_suffix(".jpg").name)
            size = (int(height), int(width)) if height and width else None
            image = entries.named(name, path.parent, size, folder.part(path))
            if image is not None:
                _add_objects(entries, image, content["shapes"], path)
        entries.unlabelled(folder.images)
        return entries.parts()


def _is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _add_objects(entries: Entries, image: Image, shapes: list[Any], path: Path) -> None:
    for place, shape in enumerate(shapes):
        with readable(f"{path}: shape {place}"):
            outline, label = _outline(shape, image.size), str(shape["label"])
        if outline is None:
            entries.leave_out(image, f"a {shape['shape_type']}, which has no area")
        else:
            entries.add(image, label, outline, shape.get("group_id"))


def _outline(shape: dict[str, Any], size: Size) -> Outline | None:
    """The outline of a shape; None for shapes without area: points and lines."""
    points, kind = shape["points"], shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return Outline.polygon(points)
    if kind in ("rectangle", "rotation"):
        if len(points) == 2:
            return Outline.rectangle(*points[0], *points[1])
        return Outline(Outline.polygon(points).segmentation, is_rectangle=True)
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return Outline.ellipse(x, y, radius, radius, size)
    if kind == "mask":
        mask = cv2.imdecode(np.frombuffer(base64.b64decode(shape["mask"]), np.uint8), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise ValueError("its mask is no image")
        left, top = (round(value) for value in points[0])
        return Outline.pixels(mask, size, left, top)
    return None
