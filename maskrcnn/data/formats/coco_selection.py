"""The valid entries of a COCO-format json, and the image records that training reads from them."""

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
from maskrcnn.data.defects import Defect
from maskrcnn.data.keypoints import from_coco
from maskrcnn.data.segmentation import compressed

Entry = dict[str, Any]


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
        keypoints=_keypoints(objects, num_keypoints) if num_keypoints else None,
    )


def _keypoints(objects: list[Entry], num_keypoints: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """``[G, J, 3]``; zeros for an object without keypoints."""
    out = np.zeros((len(objects), num_keypoints, 3), np.float32)
    for g, entry in enumerate(objects):
        points = from_coco(entry.get("keypoints", ()))
        out[g, : len(points)] = points
    return out
