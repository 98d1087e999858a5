"""VGG Image Annotator 2: one json for all images, a project or its exported annotations."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.data.folders import outlines
from maskrcnn.data.folders.entries import Entries, Image
from maskrcnn.data.folders.folder import Folder
from maskrcnn.data.folders.outlines import Outline
from maskrcnn.data.folders.protocol import Part
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
        return any(_images(content) is not None for _, content in folder.json_samples)

    def read(self, folder: Folder) -> dict[str, Part]:
        files = [(path, images) for path in folder.ending(".json") if (images := _images(folder.json(path)))]
        attribute = self.attribute or _only_attribute([images for _, images in files], folder)
        entries = Entries(folder, None if attribute else folder.classes)
        for path, images in files:
            for described in images.values():
                image = entries.named(str(described["filename"]), path.parent)
                regions = described.get("regions") or []
                for region in regions.values() if isinstance(regions, dict) else regions:
                    if image is not None:
                        _add_object(entries, image, region, attribute, path)
        entries.unlabelled(folder.images)
        return entries.parts()


def _images(content: Any) -> dict[str, Any] | None:
    """The images of a project or of exported annotations; None for any other json."""
    images = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    named = images and all(isinstance(v, dict) and {"filename", "regions"} <= set(v) for v in images.values())
    return images if named else None


def _only_attribute(files: list[dict[str, Any]], folder: Folder) -> str | None:
    counts: Counter[str] = Counter()
    for images in files:
        for described in images.values():
            regions = described.get("regions") or []
            for region in regions.values() if isinstance(regions, dict) else regions:
                counts.update(region.get("region_attributes") or {})
    if len(counts) > 1:
        raise UserError(
            f"{folder.root}: VIA's regions have the attributes {', '.join(counts)}; set data.formats.via.attribute= to "
            "the one that is the class"
        )
    if not counts and len(folder.classes or ()) != 1:
        raise UserError(
            f"{folder.root}: VIA's regions have no attribute with a class; set data.classes=[NAME]"
        )
    return next(iter(counts), None)


def _add_object(
    entries: Entries, image: Image, region: dict[str, Any], attribute: str | None, path: Path
) -> None:
    try:
        shape = region["shape_attributes"]
        outline = _outline(shape, image.size)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the region {region} cannot be read ({error!r}); draw it again") from error
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
            f"a region of VIA has the classes {', '.join(ticked)} in {attribute!r}; tick one of them"
        )
    return ticked[0] if ticked else ""


def _outline(shape: dict[str, Any], size: outlines.Size) -> Outline | None:
    kind = shape["name"]
    if kind == "polygon":
        return outlines.polygon(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)))
    if kind == "rect":
        x, y = shape["x"], shape["y"]
        return outlines.rectangle(x, y, x + shape["width"], y + shape["height"])
    if kind == "circle":
        return outlines.ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"], size)
    if kind == "ellipse":
        turn = math.degrees(shape.get("theta", 0))
        return outlines.ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], size, turn)
    return None
