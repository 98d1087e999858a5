"""PASCAL VOC 2007 and 2012 with instance masks, and folders in their layout with other classes (LabelImg's)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import Dataset, ImageRecord, OnCorruptImage, coco_entry
from maskrcnn.data.defects import listed
from maskrcnn.data.formats.voc_xml import class_names, parse_xml
from maskrcnn.data.images import read_values
from maskrcnn.data.masks import MaskBitmap, crop_to_object
from maskrcnn.errors import UserError

CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "  # noqa: SIM905
    "pottedplant sheep sofa train tvmonitor".split()
)
VOID = 255
ImageSets = Literal["Segmentation", "Main"]
_LAYOUT = "JPEGImages, Annotations, ImageSets and SegmentationObject, as in VOCdevkit/VOC2007"


class VocClasses(Dataset):
    """Images whose masks are in separate files, scored by VOC's metric."""

    metric = "voc"

    def ground_truth(self) -> dict[str, Any]:
        """The split in COCO's format for scoring. Difficult objects are crowd, and have the key ``difficult``."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for record in map(self.record, range(len(self))):
            size = {"height": record.height, "width": record.width}
            images.append({"id": record.image_id, "file_name": record.file_name, **size})
            for g, mask in enumerate(self.masks(record)):
                entry = coco_entry(record, g, mask, (record.height, record.width))
                numbers = {"id": int(record.annotation_ids[g]), "difficult": entry["iscrowd"]}
                annotations.append({**entry, **numbers})
        return {"images": images, "annotations": annotations, "categories": self.categories}


class VocDataset(VocClasses):
    """One split of a VOC folder with JPEGImages, Annotations and ImageSets.

    Boxes of the xml are 1-based and inclusive. They are converted to continuous coordinates: ``xmin - 1, ymin - 1,
    xmax, ymax``. The mask of object k covers the pixels of value k in SegmentationObject; void (255) belongs to no
    object. ``difficult`` objects are ignored in training and scoring (``crowd``). Images may have any suffix that
    OpenCV reads. Names that are not numbers are numbered in order.

    Args:
        root: the folder.
        split: a name in ImageSets: train, val, trainval, test.
        image_sets: ``Segmentation`` for the images with masks, ``Main`` for all images with boxes. An image without a
            file in SegmentationObject has only boxes.
        on_corrupt_image: see `CocoDataset`.
        classes: class names. None is VOC's twenty, or all classes in Annotations if there are others.

    Raises:
        UserError: with file and remedy.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        image_sets: ImageSets = "Segmentation",
        on_corrupt_image: OnCorruptImage = "stop",
        classes: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root)
        names = split_names(self.root, image_sets, split)
        self._reader = VocReader(self.root, classes)
        records = [self._reader.record(name, number) for name, number in image_numbers(names).items()]
        images, classes = self.root / "JPEGImages", self._reader.classes
        super().__init__(records, categories(classes), images, on_corrupt_image)

    def masks(self, record: ImageRecord) -> list[MaskBitmap | None]:
        return self._reader.masks(record)


@dataclass(frozen=True)
class VocSource:
    """The splits of VOC 2007 or 2012.

    Args:
        root: the folder VOC2007 or VOC2012, or VOCdevkit with one of them.
        train_split: split to train on.
        val_split: split to validate on.
        image_sets: see `VocDataset`.
        on_corrupt_image: see `CocoDataset`.
        classes: see `VocDataset`.
    """

    root: str | None
    train_split: str = "train"
    val_split: str = "val"
    image_sets: ImageSets = "Segmentation"
    on_corrupt_image: OnCorruptImage = "stop"
    classes: list[str] | None = None

    def train(self) -> VocDataset:
        return self._split(self.train_split)

    def val(self) -> VocDataset:
        return self._split(self.val_split)

    def _split(self, name: str) -> VocDataset:
        return VocDataset(self._folder(), name, self.image_sets, self.on_corrupt_image, self.classes)

    def _folder(self) -> Path:
        if self.root is None:
            raise UserError(
                "data=voc needs data.root=DIR, the folder VOC2007 or VOC2012, or the one that VOCdevkit is in"
            )
        root = Path(self.root)
        inside = sorted(p for p in [*root.glob("VOC20*"), *root.glob("VOCdevkit/VOC20*")] if p.is_dir())
        if len(inside) > 1:
            raise UserError(
                f"data.root={self.root} holds {listed([p.name for p in inside])}; name one of them"
            )
        return inside[0] if inside else root


def categories(classes: Sequence[str] = CLASSES) -> list[dict[str, Any]]:
    """Classes in COCO's form, numbered from 1."""
    return [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]


def split_names(root: Path, image_sets: str, split: str) -> list[str]:
    """The image names of a split. Raises UserError if the folder or the split is not VOC's.

    Args:
        root: the folder.
        image_sets: folder in ImageSets.
        split: name of the list in it.
    """
    require(root, "VOC", ("JPEGImages", "Annotations", "ImageSets"), _LAYOUT)
    if not (root / "ImageSets" / image_sets).is_dir() and (root / "ImageSets" / "Main").is_dir():
        image_sets = "Main"  # a folder without masks
    known = {image.stem for image in (root / "JPEGImages").iterdir()}
    # Lists of single classes have a second column, -1, 0 or 1. The first is the image, whose name may have spaces.
    lines = names_in(root / "ImageSets" / image_sets / f"{split}.txt")
    return [line if line in known else re.sub(r"\s+-?[01]$", "", line) for line in lines]


def require(root: Path, title: str, folders: Sequence[str], layout: str) -> None:
    """Raise UserError unless the folder of the data set ``title`` has these folders."""
    for folder in folders:
        if not (root / folder).is_dir():
            raise UserError(f"{root} is no {title} folder: it has no {folder}; expected {layout}")


def names_in(path: Path) -> list[str]:
    """The images in the list of a split. Raises UserError if it is missing or empty."""
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.txt"))
        raise UserError(f"there is no split {path}; there are: {', '.join(there) or 'none'}")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} lists no image")
    return lines


class VocReader:
    """Reads the xml files of a VOC folder.

    Args:
        root: the folder.
        classes: see `VocDataset`.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None) -> None:
        self.root = root
        self.images = {path.stem: path.name for path in sorted((root / "JPEGImages").iterdir())}
        self.classes = tuple(classes or self._classes())

    def _classes(self) -> Sequence[str]:
        """VOC's own classes if any of them occurs: a misspelt class is then an error instead of a new class."""
        found: set[str] = set()
        for path in sorted((self.root / "Annotations").glob("*.xml")):
            found |= class_names(path)
            if found & set(CLASSES):
                return CLASSES
        return sorted(found) or CLASSES

    def record(self, name: str, image_id: int) -> ImageRecord:
        """The annotations of an image, with object numbers as masks."""
        if name not in self.images:
            raise UserError(f"{self.root / 'JPEGImages' / name}.jpg is missing, but a split lists it")
        image = self.root / "JPEGImages" / self.images[name]
        record = parse_xml(self.root / "Annotations" / f"{name}.xml", self.classes, image, image_id)
        if not (self.root / "SegmentationObject" / f"{name}.png").is_file():
            return record
        return record._replace(segmentations=range(1, len(record.labels) + 1))

    def masks(self, record: ImageRecord) -> list[MaskBitmap | None]:
        """The masks of an image's objects, from SegmentationObject."""
        if not any(record.segmentations):
            return [None] * len(record.labels)
        path = self.root / "SegmentationObject" / f"{Path(record.file_name).stem}.png"
        values = read_instances(path, (record.height, record.width), len(record.labels))
        return [crop_to_object(values == k) for k in record.segmentations]


def image_numbers(names: Sequence[str]) -> dict[str, int]:
    """The number of each image of a split: that in its name if all have one, else its position."""
    if all(name.replace("_", "").isdecimal() for name in names):
        return {name: image_number(name) for name in names}
    places = {name: place for place, name in enumerate(sorted(names), 1)}
    return {name: places[name] for name in names}


def image_number(name: str) -> int:
    """The number of an image name: 5 for 000005, 2007000027 for 2007_000027."""
    digits = name.replace("_", "")
    if not digits.isdecimal():
        raise UserError(f"the VOC image name {name!r} is no number, as in 000005 or 2007_000027")
    return int(digits)


def read_instances(path: Path, size: tuple[int, int], num_objects: int) -> npt.NDArray[np.uint8]:
    """Read a SegmentationObject image.

    Args:
        path: the image.
        size: (height, width) that the xml states.
        num_objects: number of objects in the xml.

    Returns:
        The instance numbers ``[H, W]``: 0 background, 255 void.

    Raises:
        UserError: the image is damaged, has another size, or has a number without object.
    """
    mode, values = read_values(path)
    if mode not in ("P", "L"):
        raise UserError(
            f"the mask image {path} has colours ({mode}); expected VOC's palette of object numbers"
        )
    if values.shape != size:
        raise UserError(f"the mask image {path} is {values.shape}, but its xml says {size} (height, width)")
    stray = sorted(set(np.unique(values).tolist()) - {0, VOID} - set(range(1, num_objects + 1)))
    if stray:
        raise UserError(f"the mask image {path} shows objects {stray}, but its xml lists {num_objects}")
    return np.asarray(values, np.uint8)
