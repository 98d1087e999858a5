"""VGG Image Annotator 2: one json for all images, a project or its exported annotations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.data.defects import listed
from maskrcnn.data.folders.entries import Entries, Image, Outline, Size, readable
from maskrcnn.data.folders.folder import Folder, Part
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class Via:
    """VIA's json. A circle or an ellipse becomes the pixels inside it.

    Args:
        attribute: the region attribute with the class. None uses the only attribute; without any attribute,
            ``data.classes`` has the name of the only class.
    """

    attribute: str | None = None
    title = "VGG Image Annotator (VIA 2)"
    layout = "one json of VIA for all images"

    def recognises(self, folder: Folder) -> bool:
        return any(_images(content) for content in folder.json_samples.values())

    def read(self, folder: Folder) -> dict[str, Part]:
        images = [(path, image) for path in folder.ending(".json") for image in _images(folder.json(path))]
        attribute = self.attribute or _only_attribute([image for _, image in images], folder)
        entries = Entries(folder, None if attribute else folder.classes)
        for path, described in images:
            image = entries.named(str(described["filename"]), path.parent)
            if image is not None:
                for region in _regions(described):
                    _add_object(entries, image, region, attribute, path)
        entries.unlabelled(folder.images)
        return entries.parts()


def _images(content: Any) -> list[dict[str, Any]]:
    """The images of a project or of exported annotations; none for any other json."""
    images = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    named = all(isinstance(v, dict) and {"filename", "regions"} <= set(v) for v in images.values())
    return list(images.values()) if named else []


def _regions(image: dict[str, Any]) -> list[dict[str, Any]]:
    regions = image.get("regions") or []
    return list(regions.values()) if isinstance(regions, dict) else regions


def _only_attribute(images: list[dict[str, Any]], folder: Folder) -> str | None:
    regions = (region for image in images for region in _regions(image))
    names = list(dict.fromkeys(name for region in regions for name in region.get("region_attributes") or {}))
    if len(names) > 1:
        raise UserError(
            f"{folder.root}: VIA's regions have the attributes {', '.join(names)}; set data.formats.via.attribute= to "
            "the one that is the class"
        )
    if not names and len(folder.classes or ()) != 1:
        raise UserError(f"{folder.root}: VIA regions have no attribute with a class; set data.classes=[NAME]")
    return names[0] if names else None


def _add_object(
    entries: Entries, image: Image, region: dict[str, Any], attribute: str | None, path: Path
) -> None:
    with readable(f"{path}: the region {region}"):
        shape = region["shape_attributes"]
        outline = _outline(shape, image.size)
    name = (entries.classes or [""])[0] if attribute is None else _name(region, attribute)
    if outline is None:
        entries.leave_out(image, f"a {shape['name']}, which has no area")
    elif not name:
        entries.leave_out(image, "a region without a class")
    else:
        entries.add(image, name, outline)


def _name(region: dict[str, Any], attribute: str) -> str:
    """The class: a text, or the ticked checkbox."""
    value = (region.get("region_attributes") or {}).get(attribute, "")
    ticked = [key for key, on in value.items() if on] if isinstance(value, dict) else [str(value).strip()]
    if len(ticked) > 1:
        raise UserError(
            f"a region of VIA has the classes {listed(ticked)} in {attribute!r}; tick one of them"
        )
    return ticked[0] if ticked else ""


def _outline(shape: dict[str, Any], size: Size) -> Outline | None:
    kind = shape["name"]
    if kind == "polygon":
        return Outline.polygon(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)))
    if kind == "rect":
        x, y = shape["x"], shape["y"]
        return Outline.rectangle(x, y, x + shape["width"], y + shape["height"])
    if kind == "circle":
        return Outline.ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"], size)
    if kind == "ellipse":
        turn = math.degrees(shape.get("theta", 0))
        return Outline.ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], size, turn)
    return None
