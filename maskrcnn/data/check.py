"""Reads a data set whole: counts, classes, sizes, and everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.dataset import ImageRecord
from maskrcnn.data.defects import Defect
from maskrcnn.data.formats import sbd
from maskrcnn.data.formats.coco_json import FIX, Selection, readable_segmentation, select
from maskrcnn.data.formats.voc import CLASSES, read_record, record_masks, split_names
from maskrcnn.data.images import read_image, sixteen_bit_maximum
from maskrcnn.data.masks import MaskBitmap
from maskrcnn.data.segmentation import decode
from maskrcnn.errors import UserError

SIZES = {
    "small": (0, 32),
    "medium": (32, 96),
    "large": (96, float("inf")),
}  # COCO's, side of the area's square
_DARK = 2**14  # a 16-bit image without a larger value


@dataclass
class Findings:
    """What reading a data set showed.

    num_images, num_annotations (crowd included), num_crowd, num_masks, num_images_with_masks,
    num_empty_images; classes: annotations by class name. sides: square root of each object's area in
    pixels.
    """

    num_images: int = 0
    num_annotations: int = 0
    num_crowd: int = 0
    num_masks: int = 0
    num_images_with_masks: int = 0
    num_empty_images: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    sides: list[float] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The counts in words."""
        yield f"images: {self.num_images} ({self.num_empty_images} without objects)"
        yield f"annotations: {self.num_annotations} ({self.num_crowd} crowd or difficult)"
        yield f"images with masks: {self.num_images_with_masks}"
        yield f"masks: {self.num_masks}"
        for name, (low, high) in SIZES.items():
            count = sum(low <= side < high for side in self.sides)
            yield f"{name} objects (side {low}..{high} px): {count}"
        for name, count in self.classes.most_common():
            yield f"class {name}: {count}"
        yield f"defects: {len(self.defects)}"


def check_coco(data: dict[str, Any], images: Path) -> tuple[Findings, Selection]:
    """Reads what a COCO-format json holds, its images and its masks; the selection is what is sound in
    them.
    """
    if not images.is_dir():
        raise UserError(f"there is no images folder {images}")
    sound = select(data, images)
    findings = Findings(defects=list(sound.defects))
    findings.num_images, findings.num_annotations = len(data["images"]), len(data["annotations"])
    names = {category["id"]: category["name"] for category in sound.categories}
    for image_id, image in list(sound.images.items()):
        if defect := _image_defect(image, images):
            findings.defects.append(defect)
            if defect.fatal:
                del sound.images[image_id]
                continue
        objects = []
        for entry in sound.objects[image_id]:
            mask, defect = _mask_of(entry, image)
            if defect:
                findings.defects.append(defect)
                continue
            objects.append(entry)
            _count(findings, names[entry["category_id"]], entry["bbox"], mask, bool(entry.get("iscrowd")))
        sound.objects[image_id][:] = objects
        findings.num_images_with_masks += any(entry.get("segmentation") for entry in objects)
        findings.num_empty_images += not objects
    return findings, sound


def check_voc(root: Path) -> Findings:
    """Reads the images of a VOC folder's ImageSets/Segmentation: trainval, or train and val."""
    sets = root / "ImageSets" / "Segmentation"
    splits = [name for name in ("train", "val", "trainval") if (sets / f"{name}.txt").is_file()]
    names = {name for split in splits or ["trainval"] for name in split_names(root, "Segmentation", split)}
    findings = Findings()
    for name in sorted(names):
        with _defects_of(findings, name):
            record = read_record(root, name)
            _check_record(findings, record, root / "JPEGImages", partial(record_masks, root, record))
    return findings


def check_sbd(root: Path) -> Findings:
    """Reads the images of SBD's train.txt and val.txt, those that there are."""
    root = sbd.find_root(root)
    splits = [name for name in ("train", "val") if (root / f"{name}.txt").is_file()]
    names = {name for split in splits or ["train"] for name in sbd.split_names(root, split)}
    findings = Findings()
    for name in sorted(names):
        with _defects_of(findings, name):
            record, empty = sbd.read_record(root, name)
            for number in empty:
                where = f"image {name}, object {number}"
                findings.defects.append(
                    Defect("an object without a pixel", where, "it is passed over", False)
                )
            _check_record(findings, record, root / "img", partial(sbd.record_masks, root, record))
    return findings


@contextmanager
def _defects_of(findings: Findings, name: str) -> Iterator[None]:
    """Counts an image; what stops its reading is a defect of it."""
    findings.num_images += 1
    try:
        yield
    except UserError as error:
        findings.defects.append(Defect(str(error), f"image {name}", "unpack or download it anew", True))


def _check_record(
    findings: Findings, record: ImageRecord, images: Path, read_masks: Callable[[], list[MaskBitmap | None]]
) -> None:
    findings.num_annotations += len(record.labels)
    findings.num_empty_images += not len(record.labels)
    read_image(images / record.file_name, (record.height, record.width))
    masks = read_masks()
    findings.num_images_with_masks += any(mask is not None for mask in masks)
    for g, mask in enumerate(masks):
        x1, y1, x2, y2 = record.boxes[g].tolist()
        box = [x1, y1, x2 - x1, y2 - y1]
        _count(findings, CLASSES[int(record.labels[g])], box, mask, bool(record.crowd[g]))


def _count(findings: Findings, name: str, box: list[float], mask: MaskBitmap | None, crowd: bool) -> None:
    findings.num_masks += mask is not None
    findings.num_crowd += crowd
    findings.classes[name] += 1
    findings.sides.append(float(np.sqrt(box[2] * box[3] if mask is None else mask.bits.sum())))


def _image_defect(image: dict[str, Any], folder: Path) -> Defect | None:
    path, where = folder / image["file_name"], f"image {image['id']}"
    try:
        pixels = read_image(path, (image["height"], image["width"]))
    except UserError as error:
        return Defect(str(error), where, f"replace it or leave it out ({FIX})", True)
    # Of 16 bits the upper eight are read, so that 10 or 12 bits in 16 come out all but black.
    dark = pixels.max() < _DARK >> 8
    if dark and (largest := sixteen_bit_maximum(path)) is not None and largest < _DARK:
        kind = "16 bits of which few are used, read as all but black"
        return Defect(
            kind,
            f"{where} ({path}, at most {largest})",
            "scale its values to 0..65535, or save 8 bits",
            False,
        )
    return None


def _mask_of(entry: dict[str, Any], image: dict[str, Any]) -> tuple[MaskBitmap | None, Defect | None]:
    """An annotation's mask, or what is wrong with it."""
    segmentation = readable_segmentation(entry, image)
    where = f"annotation {entry['id']} of image {image['id']}"
    if segmentation is None:
        return None, None
    try:
        mask = decode(segmentation, image["height"], image["width"])
    except UserError as error:
        return None, Defect(str(error), where, f"encode it anew or remove it ({FIX})", True)
    if mask is None:
        return None, Defect("its mask is empty", where, f"draw it anew or remove it ({FIX})", False)
    return mask, None


def cleaned(data: dict[str, Any], images: Path) -> dict[str, Any]:
    """The content without what is defective, with ids and image sizes where they lacked or stood twice.

    Raises UserError where no image would be left.
    """
    data = {**data, "annotations": _renumbered(data["annotations"])}
    data["images"] = [_with_size(image, images) for image in data["images"]]
    findings, sound = check_coco(data, images)
    if not sound.images:
        first = f"; the first defect: {findings.defects[0]}" if findings.defects else ""
        raise UserError(f"--fix would leave none of {len(data['images'])} images{first}")
    return sound.content(data)


def _renumbered(annotations: list[Any]) -> list[Any]:
    """Annotations with ids from 1 on, if any id lacks, is 0 (scoring takes it for "none") or stands twice."""
    ids = [entry.get("id") if isinstance(entry, dict) else None for entry in annotations]
    if all(isinstance(number, int) and number > 0 for number in ids) and len(set(ids)) == len(ids):
        return annotations
    return [
        {**entry, "id": k} if isinstance(entry, dict) else entry for k, entry in enumerate(annotations, 1)
    ]


def _with_size(image: Any, folder: Path) -> Any:
    """An image entry with the height and width of its file, where the file can be read."""
    if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
        return image
    if all(isinstance(image.get(side), int) and image[side] > 0 for side in ("height", "width")):
        return image
    try:
        height, width = read_image(folder / image["file_name"]).shape[:2]
    except UserError:  # select() reports the file
        return image
    return {**image, "height": height, "width": width}
