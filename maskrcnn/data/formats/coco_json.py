"""A COCO-format json checked and turned into records: every defect gets a place, words and a remedy."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.dataset import ImageRecord
from maskrcnn.data.defects import Defect
from maskrcnn.data.keypoints import from_coco
from maskrcnn.data.segmentation import compressed, polygon_defect
from maskrcnn.errors import UserError

FIX = "tools/check_data.py --fix writes a cleaned json"


def load_json(path: Path) -> Any:
    """The content of a json file. Raises UserError for a missing or broken one."""
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except OSError as error:
        raise UserError(f"the file {path} cannot be opened: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # ValueError: not json, or not text at all
        raise UserError(
            f"{path} is not valid json ({error}); it may be truncated: write or download it anew"
        ) from error


def load_annotations(path: Path) -> dict[str, Any]:
    """The top-level dictionary of a COCO-format file; raises UserError for any other file."""
    data = load_json(path)
    if not isinstance(data, dict):
        raise UserError(
            f"{path} holds a {type(data).__name__}, but COCO annotations are an object with the lists "
            "images, annotations and categories"
            + (" (a list of results is for predictions=)" if isinstance(data, list) else "")
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise UserError(
                f"{path} has no list '{key}'; COCO annotations have the lists images, annotations, categories"
            )
    return data


@dataclass(frozen=True)
class Selection:
    """The sound entries of a file: images by id, their annotations, categories by rising id; and every
    defect.
    """

    images: dict[int, dict[str, Any]]
    objects: dict[int, list[dict[str, Any]]]
    categories: list[dict[str, Any]]
    defects: list[Defect]

    def records(self) -> list[ImageRecord]:
        """One record per image, by rising image id."""
        known = {category["id"]: category for category in self.categories}
        return [_record(self.images[i], self.objects[i], known) for i in sorted(self.images)]

    def content(self, data: dict[str, Any]) -> dict[str, Any]:
        """The content of the file, ``data``, as it is trained on: what is defective left out, what lacks filled in."""
        known = {category["id"]: category for category in self.categories}
        images = [self.images[i] for i in sorted(self.images)]
        kept = [_sound(entry, image, known) for image in images for entry in self.objects[image["id"]]]
        return {**data, "images": images, "annotations": kept, "categories": self.categories}


def select(data: dict[str, Any], folder: Path | None) -> Selection:
    """Checks every entry; defective ones are left out and named. folder: where the images lie; None: not looked for."""
    defects: list[Defect] = []
    categories = _categories(data["categories"], defects)
    images = _images(data["images"], folder, defects)
    known = {category["id"]: category for category in categories}
    objects: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    for place, annotation in enumerate(map(with_box, data["annotations"])):
        found = list(_annotation_defects(annotation, place, images, known, seen))
        defects += found
        if not any(defect.fatal or defect.kind.endswith("dropped") for defect in found):
            objects[annotation["image_id"]].append(annotation)
    return Selection(images, objects, categories, defects)


def _sound(
    entry: dict[str, Any], image: dict[str, Any], categories: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """An annotation with what can be read of it."""
    left_out = {"segmentation"}
    if keypoints_defect(entry, categories[entry["category_id"]]):
        left_out |= {"keypoints", "num_keypoints"}
    kept = {key: value for key, value in entry.items() if key not in left_out and value is not None}
    x, y, width, height = kept["bbox"]
    if _reaches_beyond(kept["bbox"], image):
        x1, y1 = max(x, 0), max(y, 0)
        kept["bbox"] = [x1, y1, min(x + width, image["width"]) - x1, min(y + height, image["height"]) - y1]
    segmentation = readable_segmentation(entry, image)
    if segmentation is None:
        return kept
    if "area" not in kept:  # which sizes are told apart by, in pixels of the mask
        mask = compressed(segmentation, image["height"], image["width"])
        kept["area"] = float(coco_mask.area(mask))
    return {**kept, "segmentation": segmentation}


def with_box(entry: Any) -> Any:
    """An annotation with its bbox; some tools write the segmentation alone, whose bounds it is then."""
    if not isinstance(entry, dict) or entry.get("bbox") or not entry.get("segmentation"):
        return entry
    segmentation = entry["segmentation"]
    try:
        if isinstance(segmentation, dict):
            rle = segmentation
            if isinstance(rle["counts"], list):
                rle = coco_mask.frPyObjects(rle, *rle["size"])
            return {**entry, "bbox": coco_mask.toBbox(rle).tolist()}
        points = np.concatenate([np.asarray(polygon, float).reshape(-1, 2) for polygon in segmentation])
        low, high = points.min(axis=0), points.max(axis=0)
    except (ValueError, TypeError, KeyError, OverflowError):
        return entry  # reported as an annotation without a box
    return {**entry, "bbox": [*low.tolist(), *(high - low).tolist()]}


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _categories(entries: list[Any], defects: list[Defect]) -> list[dict[str, Any]]:
    categories: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            defects.append(
                Defect("no whole number as id", f"entry {place} of categories", "give it an id", True)
            )
        elif entry["id"] in categories:
            where = f"category {entry['id']}"
            defects.append(
                Defect("this id stands twice in categories", where, "give each category its own", True)
            )
        elif not _are_names(entry.get("keypoints", [])):
            defects.append(
                Defect("keypoints that are no list of names", f"category {entry['id']}", "list them", True)
            )
        else:
            categories[entry["id"]] = {**entry, "name": str(entry.get("name", entry["id"]))}
    if not categories:
        defects.append(Defect("no category", "categories", "list the classes as {id, name}", True))
    return [categories[key] for key in sorted(categories)]


def _images(entries: list[Any], folder: Path | None, defects: list[Defect]) -> dict[int, dict[str, Any]]:
    present = set() if folder is None else {entry.name for entry in os.scandir(folder)}
    images: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            defects.append(Defect("no whole number as id", f"entry {place} of images", "give it an id", True))
            continue
        where = f"image {entry['id']}"
        name = entry.get("file_name")
        if entry["id"] in images:
            defects.append(Defect("this id stands twice in images", where, "give each image its own", True))
        elif folder is not None and not (isinstance(name, str) and name):
            defects.append(
                Defect("no file_name", where, "name its file, relative to the images folder", True)
            )
        elif not all(_is_id(entry.get(side)) and entry[side] > 0 for side in ("height", "width")):
            defects.append(Defect("no positive whole height and width", where, FIX, True))
        elif folder is None:
            images[entry["id"]] = entry
        elif (found := _file_name(str(name), folder, present)) is None:
            remedy = f"add the file, point the images folder elsewhere, or leave the image out ({FIX})"
            defects.append(Defect(f"its file is missing in {folder}", f"{where} ({name})", remedy, True))
        else:
            images[entry["id"]] = {**entry, "file_name": found}
    return images


def _file_name(name: str, folder: Path, present: set[str]) -> str | None:
    """The path of a file in ``folder``, whose entries are ``present``, Windows' separators read too, or None."""
    for known in (name, name.replace("\\", "/")):
        if known in present or (folder / known).is_file():
            return known
    return None


def _annotation_defects(
    entry: Any,
    place: int,
    images: dict[int, dict[str, Any]],
    categories: dict[int, dict[str, Any]],
    seen: set[int],
) -> Iterator[Defect]:
    """What is wrong with one annotation; a kind that ends in "dropped" leaves it out."""
    if not isinstance(entry, dict) or not _is_id(entry.get("id")):
        yield Defect("no whole number as id", f"entry {place} of annotations", f"number them ({FIX})", True)
        return
    where = f"annotation {entry['id']}"
    if entry["id"] == 0:
        kind = "the id 0, which pycocotools takes for no match"
        yield Defect(kind, where, f"number them from 1 on ({FIX})", False)
    if entry["id"] in seen:
        yield Defect("this id stands twice in annotations", where, f"number them anew ({FIX})", True)
    seen.add(entry["id"])
    image_id, category_id = entry.get("image_id"), entry.get("category_id")
    image = images.get(image_id) if isinstance(image_id, int) else None
    if image is None:
        remedy = f"add the image to 'images' or leave the annotation out ({FIX})"
        yield Defect(f"it belongs to image {image_id!r}, which is not listed", where, remedy, True)
        return
    if not _is_id(category_id) or category_id not in categories:
        remedy = f"list the category or leave the annotation out ({FIX})"
        yield Defect(f"its category {category_id!r} is not listed", where, remedy, True)
        return
    where = f"{where} of image {image['id']}"
    if defect := _box_defect(entry, image):
        yield Defect(f"{defect}, dropped", where, f"draw it anew or remove it ({FIX})", False)
    elif _reaches_beyond(entry["bbox"], image):
        remedy = "bbox is [x, y, width, height]: are these perhaps [x1, y1, x2, y2]?"
        yield Defect("a box that reaches beyond its image, cut", where, remedy, False)
    yield from _segmentation_defects(entry, image, where)
    if defect := keypoints_defect(entry, categories[category_id]):
        yield Defect(f"{defect}, passed over", where, f"mark them anew ({FIX})", False)


def _box_defect(entry: dict[str, Any], image: dict[str, Any]) -> str | None:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        return "a bbox that is not four numbers x, y, width, height"
    x, y, width, height = box
    if not math.isfinite(x + y + width + height):
        return "a bbox with a number that is not finite"
    if width <= 0 or height <= 0:
        return "a box of zero or negative size"
    if x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0:
        return "a box outside of its image"
    return None


def _reaches_beyond(box: list[float], image: dict[str, Any]) -> bool:
    """By more than a pixel, which is how far drawing programs are off."""
    x, y, width, height = box
    return min(x, y) < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1


def _segmentation_defects(entry: dict[str, Any], image: dict[str, Any], where: str) -> Iterator[Defect]:
    segmentation, size = entry.get("segmentation"), [image["height"], image["width"]]
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if defect := polygon_defect(polygon, *size):
                yield Defect(f"{defect}, passed over", where, f"draw it anew ({FIX})", False)
    elif isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != size:
            kind = f"its RLE has the size {segmentation.get('size')}, the image {size} (height, width)"
            yield Defect(kind, where, f"make both the same ({FIX})", True)
        elif not isinstance(segmentation.get("counts"), (str, list)):
            yield Defect("its RLE has no counts", where, f"encode the mask anew ({FIX})", True)
    elif segmentation is not None:
        kind = f"its segmentation is a {type(segmentation).__name__}, neither polygons nor RLE, passed over"
        yield Defect(kind, where, f"draw it anew ({FIX})", False)


def _record(
    image: dict[str, Any], objects: list[dict[str, Any]], categories: dict[int, dict[str, Any]]
) -> ImageRecord:
    labels = {number: label for label, number in enumerate(categories)}
    num_keypoints = max(len(category.get("keypoints", ())) for category in categories.values())
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
        crowd=np.array([bool(entry.get("iscrowd")) for entry in objects], bool),
        annotation_ids=np.array([entry["id"] for entry in objects], np.int64),
        segmentations=[readable_segmentation(entry, image) for entry in objects],
        keypoints=_keypoints(objects, categories, num_keypoints) if num_keypoints else None,
    )


def readable_segmentation(entry: dict[str, Any], image: dict[str, Any]) -> Any:
    """The readable part of an annotation's segmentation; None when nothing of it is."""
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, list):
        size = image["height"], image["width"]
        return [polygon for polygon in segmentation if polygon_defect(polygon, *size) is None] or None
    return segmentation if isinstance(segmentation, dict) else None


def _keypoints(
    objects: list[dict[str, Any]], categories: dict[int, dict[str, Any]], num_keypoints: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """``[G, J, 3]``; zeros for an object without, or with unreadable ones."""
    out = np.zeros((len(objects), num_keypoints, 3), np.float32)
    for g, entry in enumerate(objects):
        if keypoints_defect(entry, categories[entry["category_id"]]) is None:
            points = from_coco(entry.get("keypoints") or ())
            out[g, : len(points)] = points
    return out


def keypoints_defect(entry: dict[str, Any], category: dict[str, Any]) -> str | None:
    """What is wrong with an annotation's keypoints, or None."""
    numbers = entry.get("keypoints")
    if numbers is None or numbers == []:
        return None
    if not isinstance(numbers, list) or not set(map(type, numbers)) <= {int, float} or len(numbers) % 3:
        return "keypoints that are not a list of x, y, visibility"
    if not all(map(math.isfinite, numbers)) or not set(numbers[2::3]) <= {0, 1, 2}:
        return "keypoints with a place that is not finite, or a visibility other than 0, 1, 2"
    if len(numbers) // 3 != (listed := len(category.get("keypoints", ()))):
        return f"{len(numbers) // 3} keypoints, but its category {category['id']} lists {listed}"
    return None
