"""Cleans a COCO-format json: keeps valid entries, and guesses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from maskrcnn.data.check import check_coco
from maskrcnn.data.defects import Defect, Kind
from maskrcnn.data.formats.coco_fields import number, whole
from maskrcnn.data.formats.coco_json import select
from maskrcnn.data.formats.file_names import FileFinder
from maskrcnn.data.images import read_image
from maskrcnn.errors import UserError

Content = dict[str, Any]


class Cleaned(NamedTuple):
    """Result of `cleaned`.

    Attributes:
        content: content of the json.
        defects: what was converted, left out and kept.
    """

    content: Content
    defects: list[Defect]


def cleaned(data: Content, images: Path, crowds_are_objects: bool = False) -> Cleaned:
    """Remove defective entries, and fill in missing ids and image sizes.

    An entry is kept or left out. No annotation moves to another image or class.

    Args:
        data: content of the json.
        images: folder of the images.
        crowds_are_objects: write iscrowd=0 for all objects.

    Raises:
        UserError: no image, no annotation or no category would be left.
    """
    finder, defects = FileFinder(images), list[Defect]()
    for key in ("images", "annotations", "categories"):  # an empty entry is reported as one without id
        data = {**data, key: [entry if isinstance(entry, dict) else {} for entry in data[key]]}
    data = _with_whole_ids(data, "images", "image_id", defects)
    data = _with_whole_ids(data, "categories", "category_id", defects)
    annotations = _renumbered(data["annotations"], defects)
    if crowds_are_objects:
        annotations = [_as_object(entry, defects) for entry in annotations]
    data = {**data, "annotations": annotations}
    data["images"] = _with_sizes(data, finder, defects)
    findings, sound = check_coco(data, images, keep_doubtful=False)
    # Check again, because a box that was cut may no longer match its mask.
    content = (again := select(sound.content(data), None, keep_doubtful=False)).content(data)
    findings.defects += again.defects
    for key in ("images", "annotations"):
        if not content[key] and (data[key] or key == "images"):
            severe = [d for d in findings.defects if d.fatal] or findings.defects
            words = f"; the first defect: {severe[0]}" if severe else ""
            raise UserError(f"--fix would leave none of {len(data[key])} {key}{words}")
    if unclear := [d for d in findings.defects if d.kind in (Kind.SHARES, Kind.NO_CATEGORY)]:
        raise UserError(f"--fix cannot repair this: {unclear[0]}")
    return Cleaned(content, defects + findings.defects)


def with_classes_of(content: Content, other: list[Any], name: str, defects: list[Defect]) -> Content:
    """Replace the categories by those of another file with the same names.

    Args:
        content: content of the json.
        other: categories of the other file.
        name: the other file's name, for messages.
        defects: receives what was changed.

    Raises:
        UserError: the names differ.
    """
    ids = {str(c["name"]): c["id"] for c in other}
    unknown = [c["name"] for c in content["categories"] if c["name"] not in ids]
    if unknown or len(ids) < len(other):
        raise UserError(
            f"{name} does not list the classes {unknown}" if unknown else f"{name} lists a name twice"
        )
    new = {c["id"]: ids[c["name"]] for c in content["categories"]}
    defects += [Defect(Kind.RENAMED_CLASS, f"category {old}", name) for old in new if old != new[old]]
    annotations = [{**entry, "category_id": new[entry["category_id"]]} for entry in content["annotations"]]
    return {**content, "annotations": annotations, "categories": other}


def _with_whole_ids(data: Content, what: str, key: str, defects: list[Defect]) -> Content:
    """Replace ids that are strings or exceed 64 bits by numbers, in the entries and in the annotations."""
    ids = [_same(entry.get("id")) for entry in data[what]]
    if not any(isinstance(value, str) for value in ids):
        return data
    # Number classes in the order of their ids, so that two files with the same classes get the same numbers.
    distinct = list(dict.fromkeys(value for value in ids if value is not None))
    order = sorted(distinct, key=str) if what == "categories" else distinct
    numbers: dict[int | str | None, int] = {value: place for place, value in enumerate(order, 1)}
    defects += [Defect(Kind.NUMBERED, f"{what} {value} is {numbers[value]}", "an id") for value in order]

    def changed(entries: list[Content], key: str) -> list[Content]:
        return [entry and {**entry, key: numbers.get(_same(entry.get(key)))} for entry in entries]

    return {**data, what: changed(data[what], "id"), "annotations": changed(data["annotations"], key)}


def _same(value: Any) -> int | str | None:
    """A key that is equal for equivalent ids: a number, or a string that is not a number. None for invalid ids."""
    found = whole(value)
    if found is None and isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return str(value)
    return found


def _renumbered(annotations: list[Content], defects: list[Defect]) -> list[Content]:
    """Renumber annotations from 1 if an id is missing, 0 ("none" in scoring), too large or duplicated."""
    first: dict[int, Content] = {}
    kept = []
    for entry in annotations:
        number = whole(entry.get("id"))
        if number is not None and first.setdefault(number, entry) is not entry and first[number] == entry:
            defects.append(Defect(Kind.LISTED_TWICE, f"annotation {number}"))
        else:
            kept.append(entry)
    ids = [whole(entry.get("id")) for entry in kept if entry]
    if all(ids) and len(set(ids)) == len(ids):
        return kept
    defects.append(Defect(Kind.RENUMBERED, f"{len(kept)} annotations"))
    return [entry and {**entry, "id": k} for k, entry in enumerate(kept, 1)]


def _as_object(entry: Content, defects: list[Defect]) -> Content:
    if not entry.get("iscrowd"):
        return entry
    defects.append(Defect(Kind.CROWD_IS_OBJECT, f"annotation {entry.get('id')}"))
    return {**entry, "iscrowd": 0}


def _with_sizes(data: Content, finder: FileFinder, defects: list[Defect]) -> list[Content]:
    """Image entries with the height and width of their files, if those are missing or swapped."""
    reach: dict[int | str | None, tuple[float, float]] = {}
    for entry in data["annotations"]:
        box = entry.get("bbox")
        x, y, w, h = [number(v) or 0.0 for v in box] if isinstance(box, list) and len(box) == 4 else [0.0] * 4
        image = _same(entry.get("image_id"))
        farthest_y, farthest_x = reach.get(image, (0.0, 0.0))
        reach[image] = max(farthest_y, y + h), max(farthest_x, x + w)
    images = [(entry, reach.get(_same(entry.get("id")), (0.0, 0.0))) for entry in data["images"]]
    return [_with_size(entry, finder, farthest, defects) for entry, farthest in images]


def _with_size(
    entry: Content, finder: FileFinder, reach: tuple[float, float], defects: list[Defect]
) -> Content:
    """An image entry with the size of its file.

    ``reach``: (y, x) of the farthest corner of a box, which the size must contain.
    """
    name = entry.get("file_name")
    paths = finder.find(name) if isinstance(name, str) and name else []
    if len(paths) != 1:  # `select` reports the file
        return entry
    stated = [whole(entry.get(side)) for side in ("height", "width")]
    lacks = any(side is None or side < 1 for side in stated)
    path = finder.folder / paths[0]
    try:
        with Image.open(path) as file:
            if not lacks and (file.width == file.height or [file.width, file.height] != stated):
                return entry
        height, width = read_image(path).shape[:2]
    except (OSError, ValueError, UserError, Image.DecompressionBombError):  # `check_coco` reports the file
        return entry
    turned = [height, width] == stated  # by its EXIF orientation
    if not lacks and (turned or reach[0] > height + 1 or reach[1] > width + 1):
        return entry
    kind = Kind.SIZE_OF_FILE if lacks else Kind.SIZE_EXCHANGED
    defects.append(Defect(kind, f"image {entry.get('id')}"))
    return {**entry, "height": height, "width": width}
