"""The valid entries of a COCO-format json: checks of all entries together, and the records that training reads."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.dataset import ImageRecord
from maskrcnn.data.defects import Defect, Kind
from maskrcnn.data.keypoints import from_coco
from maskrcnn.data.segmentation import compressed, parse_rle_strings

Entry = dict[str, Any]
_MOST_CROWDS = 0.2  # largest normal share of crowds; COCO has one percent


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector, which would visit all entries again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass
class Selection:
    """The valid entries of a file, and its defects.

    Entries are converted: integers as ids, a box, an area, ``iscrowd`` 0 or 1, polygons or RLE.

    Attributes:
        images: image entries by id.
        objects: annotations by image id.
        categories: categories by ascending id.
        defects: all defects.
    """

    images: dict[int, Entry] = field(default_factory=dict)
    objects: dict[int, list[Entry]] = field(default_factory=dict)
    categories: list[Entry] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)

    @collector_paused()
    def records(self) -> list[ImageRecord]:
        """One record per image, by ascending image id."""
        labels = {category["id"]: label for label, category in enumerate(self.categories)}
        num_keypoints = max((len(c.get("keypoints", ())) for c in self.categories), default=0)
        return [_record(self.images[i], self.objects[i], labels, num_keypoints) for i in sorted(self.images)]

    def content(self, data: dict[str, Any]) -> dict[str, Any]:
        """The content of the file, ``data``, as it is trained on.

        Defective entries are left out, and missing values filled in.
        """
        images = [self.images[i] for i in sorted(self.images)]
        kept = [_with_area(entry, image) for image in images for entry in self.objects[image["id"]]]
        return {**data, "images": images, "annotations": kept, "categories": self.categories}


def distinct_names(categories: Iterable[Entry]) -> dict[int, str]:
    """Category names by id. Names that several categories have get the id appended."""
    names = {int(c["id"]): str(c["name"]) for c in categories}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {number: f"{name} ({number})" if name in shared else name for number, name in names.items()}


def _with_area(entry: Entry, image: Entry) -> Entry:
    """An annotation with its area, in pixels of the mask or else of the box, which COCO's object sizes use."""
    if "area" in entry:
        return entry
    if "segmentation" not in entry:
        return {**entry, "area": float(entry["bbox"][2] * entry["bbox"][3])}
    mask = compressed(entry["segmentation"], image["height"], image["width"])
    return {**entry, "area": float(coco_mask.area(mask))}


def _record(image: Entry, objects: list[Entry], labels: dict[int, int], num_keypoints: int) -> ImageRecord:
    boxes = np.array([entry["bbox"] for entry in objects], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    limit = np.array([image["width"], image["height"]] * 2)
    keypoints = np.zeros((len(objects), num_keypoints, 3), np.float32)
    for g, entry in enumerate(objects):
        if "keypoints" in entry:
            points = from_coco(entry["keypoints"])
            keypoints[g, : len(points)] = points
    return ImageRecord(
        image_id=image["id"],
        file_name=image["file_name"],
        height=image["height"],
        width=image["width"],
        boxes=boxes.clip(0, limit).astype(np.float32),
        labels=np.array([labels[entry["category_id"]] for entry in objects], np.int64),
        crowd=np.array([entry["iscrowd"] for entry in objects], bool),
        annotation_ids=np.array([entry["id"] for entry in objects], np.int64),
        segmentations=[entry.get("segmentation") for entry in objects],
        keypoints=keypoints if num_keypoints else None,
    )


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
        rles = [(entry, rle) for entry in objects if isinstance(rle := entry.get("segmentation"), dict)]
        strings = [(entry, rle["counts"].encode()) for entry, rle in rles if isinstance(rle["counts"], str)]
        if not strings:
            continue
        height, width = found.images[image_id]["height"], found.images[image_id]["width"]
        parsed = parse_rle_strings([string for _, string in strings])
        for (entry, _), runs in zip(strings, parsed, strict=True):
            if runs.min() < 0 or runs.sum() != height * width:
                where = f"annotation {entry['id']} of image {image_id}"
                words = f"its RLE describes {runs.sum()} pixels, but the image has {height} x {width}"
                found.defects.append(Defect(Kind.RLE_DAMAGED, where, words))
                objects[:] = [other for other in objects if other is not entry]


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
            where = f"category {category['id']}"
            found.defects.append(Defect(Kind.EMPTY_ROOT, where, repr(category["name"])))
