"""Reads a complete data set: counts, classes, sizes, and all defects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.dataset import ImageRecord, coco_entry
from maskrcnn.data.defects import Defect, Kind
from maskrcnn.data.formats import sbd
from maskrcnn.data.formats.coco_json import select
from maskrcnn.data.formats.coco_selection import Entry, Selection, distinct_names
from maskrcnn.data.formats.voc import CLASSES, VocReader, image_numbers, split_names
from maskrcnn.data.images import few_bits, read_image
from maskrcnn.data.masks import MaskBitmap
from maskrcnn.data.segmentation import decode
from maskrcnn.errors import UserError

# COCO's limits, as square roots of areas.
SIZES = {"small": (0, 32), "medium": (32, 96), "large": (96, float("inf"))}


@dataclass
class Findings:
    """Counts and defects of a data set.

    Attributes:
        num_images: number of images.
        num_annotations: number of annotations, including crowds.
        num_crowd: number of crowds.
        num_masks: number of masks.
        num_images_with_masks: number of images with masks.
        num_empty_images: number of images without annotations.
        classes: number of annotations by class name.
        sides: square root of each object's area in pixels.
        defects: everything that is wrong.
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
        """The counts as text."""
        yield f"images: {self.num_images} ({self.num_empty_images} without objects)"
        yield f"annotations: {self.num_annotations} ({self.num_crowd} crowd or difficult)"
        yield f"images with masks: {self.num_images_with_masks}"
        yield f"masks: {self.num_masks}"
        for name, (low, high) in SIZES.items():
            count = sum(low <= side < high for side in self.sides)
            yield f"{name} objects (side {low}..{high} px): {count}"
        for name, count in self.classes.most_common():
            yield f"class {name}: {count}"
        yield f"defects: {sum(not defect.harmless for defect in self.defects)}"


def check_coco(data: dict[str, Any], images: Path, keep_doubtful: bool = True) -> tuple[Findings, Selection]:
    """Check a COCO-format json, its images and its masks.

    Args:
        data: content of the json.
        images: folder of the images.
        keep_doubtful: keep objects that training keeps with a warning.

    Returns:
        The findings, and the valid entries.
    """
    sound = select(data, images, keep_doubtful)
    findings = Findings(len(data["images"]), len(data["annotations"]), defects=list(sound.defects))
    names = distinct_names(sound.categories)
    for image_id, image in list(sound.images.items()):
        if defect := _image_defect(image, images):
            findings.defects.append(defect)
            if defect.fatal:
                del sound.images[image_id]
                continue
        objects = [_with_mask(entry, image, names, findings) for entry in sound.objects[image_id]]
        sound.objects[image_id] = objects
        findings.num_images_with_masks += any("segmentation" in entry for entry in objects)
        findings.num_empty_images += not objects
    return findings, sound


def _with_mask(entry: Entry, image: Entry, names: dict[int, str], findings: Findings) -> Entry:
    """Count an annotation.

    Returns it without its mask if that is empty, and without its area if that belongs to another mask.
    """
    where = f"annotation {entry['id']} of image {image['id']}"
    segmentation = entry.get("segmentation")
    mask = None if segmentation is None else decode(segmentation, image["height"], image["width"])
    left_out = set()
    if segmentation is not None and mask is None:
        findings.defects.append(Defect(Kind.EMPTY_MASK, where))
        left_out = {"segmentation", "area"}
    elif mask is not None and not _fits(entry.get("area"), int(mask.bits.sum())):
        findings.defects.append(Defect(Kind.AREA_OF_MASK, where))
        left_out = {"area"}
    _count(findings, names[entry["category_id"]], entry["bbox"], mask, bool(entry["iscrowd"]))
    return {key: value for key, value in entry.items() if key not in left_out} if left_out else entry


def _fits(area: float | None, pixels: int) -> bool:
    """Whether an area is about that of the mask. Tools count the pixels of an outline differently."""
    return area is None or pixels / 2 - 16 <= area <= 2 * pixels + 16


def check_voc(root: Path) -> Findings:
    """Check the images in a VOC folder's ImageSets/Segmentation (or Main): trainval, or train and val."""
    sets = root / "ImageSets"
    chosen = "Segmentation" if (sets / "Segmentation").is_dir() else "Main"
    splits = [name for name in ("train", "val", "trainval") if (sets / chosen / f"{name}.txt").is_file()]
    names = sorted({n for split in splits or ["trainval"] for n in split_names(root, chosen, split)})
    reader, numbers = VocReader(root), image_numbers(names)

    def read(name: str) -> tuple[ImageRecord, list[int]]:
        return reader.record(name, numbers[name]), []

    return _checked(names, read, reader.masks, root / "JPEGImages", reader.classes)


def check_sbd(root: Path) -> Findings:
    """Check the images in SBD's train.txt and val.txt, if they exist."""
    root = sbd.find_root(root)
    splits = [name for name in ("train", "val") if (root / f"{name}.txt").is_file()]
    names = {name for split in splits or ["train"] for name in sbd.split_names(root, split)}
    read, masks_of = partial(sbd.read_record, root), partial(sbd.record_masks, root)
    return _checked(sorted(names), read, masks_of, root / "img", CLASSES)


def _checked(
    names: Sequence[str],
    read: Callable[[str], tuple[ImageRecord, list[int]]],
    masks_of: Callable[[ImageRecord], list[MaskBitmap | None]],
    images: Path,
    classes: Sequence[str],
) -> Findings:
    """Count images and objects. An error while reading an image becomes a defect.

    ``read`` returns the annotations of an image and the numbers of objects without a pixel.
    """
    findings = Findings(num_images=len(names))
    for name in names:
        try:
            record, empty = read(name)
            findings.defects += [Defect(Kind.NO_PIXEL, f"image {name}, object {number}") for number in empty]
            findings.num_annotations += len(record.labels)
            findings.num_empty_images += not len(record.labels)
            read_image(images / record.file_name, (record.height, record.width))
            masks = masks_of(record)
        except UserError as error:
            findings.defects.append(Defect(Kind.FILE, f"image {name}", str(error)))
            continue
        findings.num_images_with_masks += any(mask is not None for mask in masks)
        for g, mask in enumerate(masks):
            entry = coco_entry(record, g, None, (record.height, record.width))
            _count(findings, classes[int(record.labels[g])], entry["bbox"], mask, bool(record.crowd[g]))
    return findings


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
        return Defect(Kind.IMAGE_UNREADABLE, where, str(error))
    if (largest := few_bits(path, pixels)) is not None:
        return Defect(Kind.FEW_BITS, f"{where} ({path}, at most {largest})")
    return None
