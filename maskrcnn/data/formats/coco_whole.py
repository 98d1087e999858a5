"""Checks of a COCO-format json that need all objects of an image or of the file."""

from __future__ import annotations

from collections import Counter
from typing import Any

from maskrcnn.data.defects import Defect, Kind
from maskrcnn.data.formats.coco_selection import Entry, Selection
from maskrcnn.data.segmentation import parse_rle_strings

_MOST_CROWDS = 0.2  # largest normal share of crowds; COCO has one percent


def check_whole(found: Selection, keep_doubtful: bool) -> None:
    """Add the defects that only several objects together show.

    Doubtful objects are left out unless ``keep_doubtful``.
    """
    _check_runs(found)
    _check_doubles(found, keep_doubtful)
    _check_file(found)


def _check_runs(found: Selection) -> None:
    """Leave out objects whose compressed run lengths do not fit their image."""
    for image_id, objects in found.objects.items():
        places = [k for k, entry in enumerate(objects) if _is_compressed(entry.get("segmentation"))]
        if not places:
            continue
        height, width = found.images[image_id]["height"], found.images[image_id]["width"]
        runs = parse_rle_strings([objects[k]["segmentation"]["counts"].encode() for k in places])
        for k, of_one in reversed(list(zip(places, runs, strict=True))):
            if of_one.min() < 0 or of_one.sum() != height * width:
                where = f"annotation {objects[k]['id']} of image {image_id}"
                words = f"its RLE describes {of_one.sum()} pixels, but the image has {height} x {width}"
                found.defects.append(Defect(Kind.RLE_DAMAGED, where, words))
                del objects[k]


def _check_doubles(found: Selection, keep: bool) -> None:
    """Report objects of one image that only differ in their ids. Leave them out unless ``keep``."""
    for image_id, objects in found.objects.items():
        boxes = Counter((entry["category_id"], *entry["bbox"]) for entry in objects)
        if len(boxes) == len(objects):
            continue
        alike: list[Entry] = []
        for entry in list(objects):
            if boxes[(entry["category_id"], *entry["bbox"])] > 1:
                content = {key: value for key, value in entry.items() if key != "id"}
                if content in alike:
                    where = f"annotation {entry['id']} of image {image_id}"
                    found.defects.append(Defect(Kind.SAME_OBJECT, where))
                    if not keep:
                        objects[:] = [other for other in objects if other is not entry]
                alike.append(content)


def _is_compressed(segmentation: Any) -> bool:
    return isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)


def _check_file(found: Selection) -> None:
    """Checks of all objects together."""
    objects = [entry for of_image in found.objects.values() for entry in of_image]
    if not objects:
        return
    whole = f"{len(objects)} annotations"
    crowds = sum(entry["iscrowd"] for entry in objects)
    if crowds > _MOST_CROWDS * len(objects):
        found.defects.append(Defect(Kind.MANY_CROWDS, whole, f"{crowds} of {len(objects)}"))
    reach = max(max(e["bbox"][0] + e["bbox"][2], e["bbox"][1] + e["bbox"][3]) for e in objects)
    smallest = min(min(i["height"], i["width"]) for i in found.images.values())
    if reach <= 1.5 and smallest > 2:
        found.defects.append(Defect(Kind.SHARES, whole))
    elif reach <= 100 and smallest > 150:
        found.defects.append(Defect(Kind.PERCENT, whole, f"{smallest} pixels and more"))
    used = {entry["category_id"] for entry in objects}
    for category in found.categories:
        others = [c.get("supercategory") for c in found.categories if c is not category]
        if category["id"] not in used and others and all(name == category["name"] for name in others):
            found.defects.append(
                Defect(Kind.EMPTY_ROOT, f"category {category['id']}", repr(category["name"]))
            )
