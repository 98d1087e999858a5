"""PASCAL VOC 2007 and 2012 with instance masks: boxes from xml, masks from SegmentationObject."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskrcnn.data.dataset import Dataset, ImageRecord, OnCorruptImage
from maskrcnn.data.masks import MaskBitmap, crop_to_object, encode
from maskrcnn.errors import UserError

CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "  # noqa: SIM905
    "pottedplant sheep sofa train tvmonitor".split()
)
VOID = 255
ImageSets = Literal["Segmentation", "Main"]


class VocClasses(Dataset):
    """Images of VOC's twenty classes with objects whose masks lie in files beside them, scored by VOC's metric."""

    metric = "voc"

    def ground_truth(self) -> dict[str, Any]:
        """The split in COCO's format, for scoring; difficult objects are crowd (and say ``difficult``)."""
        images, annotations = [], []
        for index in range(len(self)):
            record = self.record(index)
            images.append(
                {
                    "id": record.image_id,
                    "file_name": record.file_name,
                    "height": record.height,
                    "width": record.width,
                }
            )
            for g, mask in enumerate(self.masks(record)):
                annotations.append(_coco_annotation(record, g, mask))
        return {"images": images, "annotations": annotations, "categories": self.categories}


class VocDataset(VocClasses):
    """One split of a VOC folder (the one with JPEGImages, Annotations and ImageSets).

    split: a name in ImageSets: train, val, trainval, test. image_sets: "Segmentation" for the images with
    masks, "Main" for all images with boxes; an image without a file in SegmentationObject has boxes alone.
    ``difficult`` objects are neither learned nor counted (``crowd``).

    Boxes are the xml's, 1-based and inclusive, made continuous: ``xmin - 1, ymin - 1, xmax, ymax``. Object
    k's mask is where SegmentationObject says k; void (255) belongs to nobody. Raises UserError, naming file
    and remedy.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        image_sets: ImageSets = "Segmentation",
        on_corrupt_image: OnCorruptImage = "stop",
    ) -> None:
        self.root = Path(root)
        records = [read_record(self.root, name) for name in split_names(self.root, image_sets, split)]
        super().__init__(records, categories(), self.root / "JPEGImages", on_corrupt_image)

    def masks(self, record: ImageRecord) -> list[MaskBitmap | None]:
        return record_masks(self.root, record)


@dataclass(frozen=True)
class VocSource:
    """VOC 2007 or 2012. root: the folder VOC2007 or VOC2012, or VOCdevkit with one of them in it."""

    root: str | None
    train_split: str = "train"
    val_split: str = "val"
    image_sets: ImageSets = "Segmentation"
    on_corrupt_image: OnCorruptImage = "stop"

    def train(self) -> VocDataset:
        return VocDataset(self._folder(), self.train_split, self.image_sets, self.on_corrupt_image)

    def val(self) -> VocDataset:
        return VocDataset(self._folder(), self.val_split, self.image_sets, self.on_corrupt_image)

    def _folder(self) -> Path:
        if self.root is None:
            raise UserError(
                "data=voc needs data.root=DIR, the folder VOC2007 or VOC2012, or the one that VOCdevkit is in"
            )
        root = Path(self.root)
        inside = sorted(p for p in [*root.glob("VOC20*"), *root.glob("VOCdevkit/VOC20*")] if p.is_dir())
        if len(inside) > 1:
            raise UserError(
                f"data.root={self.root} holds {', '.join(p.name for p in inside)}; name one of them"
            )
        return inside[0] if inside else root


@dataclass(frozen=True)
class VocAnnotation:
    """An xml file: boxes ``[G, 4]`` float32 continuous, labels ``[G]`` int64, difficult ``[G]`` bool."""

    height: int
    width: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]


def categories() -> list[dict[str, Any]]:
    """VOC's classes in COCO's form, numbered from 1 on."""
    return [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]


def split_names(root: Path, image_sets: str, split: str) -> list[str]:
    """The image names of a split; raises UserError where the folder or the split is not VOC's."""
    for folder in ("JPEGImages", "Annotations", "ImageSets"):
        if not (root / folder).is_dir():
            raise UserError(
                f"{root} is no VOC folder: it has no {folder}; expected JPEGImages, Annotations, "
                "ImageSets and SegmentationObject, as in VOCdevkit/VOC2007"
            )
    path = root / "ImageSets" / image_sets / f"{split}.txt"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.txt"))
        raise UserError(f"there is no split {path}; there are: {', '.join(there) or 'none'}")
    # Files of single classes hold a second column; the first is the image.
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path} lists no image")
    return names


def read_record(root: Path, name: str) -> ImageRecord:
    """The annotations of one image; its masks are its objects' numbers until they are asked for."""
    image = root / "JPEGImages" / f"{name}.jpg"
    if not image.is_file():
        raise UserError(f"{image} is missing, but a split lists it")
    annotation = parse_xml(root / "Annotations" / f"{name}.xml")
    has_masks = (root / "SegmentationObject" / f"{name}.png").is_file()
    image_id = image_number(name)
    return ImageRecord(
        image_id=image_id,
        file_name=image.name,
        height=annotation.height,
        width=annotation.width,
        boxes=annotation.boxes,
        labels=annotation.labels,
        crowd=annotation.difficult,
        annotation_ids=image_id * 1000 + 1 + np.arange(len(annotation.labels)),
        segmentations=[k if has_masks else None for k in range(1, len(annotation.labels) + 1)],
    )


def record_masks(root: Path, record: ImageRecord) -> list[MaskBitmap | None]:
    """The masks of an image's objects, from SegmentationObject."""
    if not any(record.segmentations):
        return [None] * len(record.labels)
    path = root / "SegmentationObject" / f"{Path(record.file_name).stem}.png"
    values = read_instances(path, (record.height, record.width), len(record.labels))
    return [crop_to_object(values == k) for k in record.segmentations]


def image_number(name: str) -> int:
    """The number that stands for an image name: 000005 is 5, 2007_000027 is 2007000027."""
    digits = name.replace("_", "")
    if not digits.isdecimal():
        raise UserError(f"the VOC image name {name!r} is no number, as in 000005 or 2007_000027")
    return int(digits)


def parse_xml(path: Path) -> VocAnnotation:
    """Reads one annotation file; raises UserError for a missing, broken or incomplete one."""
    try:
        tree = ElementTree.parse(path)
    except FileNotFoundError as error:
        raise UserError(f"the annotation {path} is missing, but a split lists its image") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid xml ({error}); unpack or download it anew") from error
    height, width = (_number(tree.find("size"), side, path) for side in ("height", "width"))
    if min(height, width) < 1:
        raise UserError(f"{path} says the image is {height:g} x {width:g} (height x width)")
    objects = [_object(entry, path, number) for number, entry in enumerate(tree.findall("object"), start=1)]
    return VocAnnotation(
        height=int(height),
        width=int(width),
        boxes=np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], bool),
    )


def _object(entry: ElementTree.Element, path: Path, number: int) -> tuple[list[float], int, bool]:
    name = (entry.findtext("name") or "").strip()
    if name not in CLASSES:
        raise UserError(
            f"{path}: object {number} has the class {name!r}, which is none of VOC's: {', '.join(CLASSES)}"
        )
    box = entry.find("bndbox")
    x1, y1, x2, y2 = (_number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise UserError(f"{path}: object {number} has a box of negative size ({x1}, {y1}, {x2}, {y2})")
    difficult = (entry.findtext("difficult") or "0").strip() == "1"
    return [x1 - 1, y1 - 1, x2, y2], CLASSES.index(name), difficult


def _number(parent: ElementTree.Element | None, name: str, path: Path) -> float:
    text = None if parent is None else parent.findtext(name)
    try:
        return float(text or "")
    except ValueError as error:
        raise UserError(f"{path}: <{name}> is {text!r}, not a number") from error


def read_instances(path: Path, size: tuple[int, int], num_objects: int) -> npt.NDArray[np.uint8]:
    """The instance numbers ``[H, W]`` of a SegmentationObject image: 0 nobody, 255 void.

    Raises UserError for a damaged image, another size than the xml's, or a number that no object has.
    """
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say that a file is damaged
        raise UserError(f"the mask image {path} is damaged ({error}); unpack or download it anew") from error
    if mode not in ("P", "L"):
        raise UserError(
            f"the mask image {path} has colours ({mode}); expected VOC's palette image of object numbers"
        )
    if values.shape != size:
        raise UserError(f"the mask image {path} is {values.shape}, but its xml says {size} (height, width)")
    stray = sorted(set(np.unique(values).tolist()) - {0, VOID} - set(range(1, num_objects + 1)))
    if stray:
        raise UserError(f"the mask image {path} shows objects {stray}, but its xml lists {num_objects}")
    return np.asarray(values, np.uint8)


def _coco_annotation(record: ImageRecord, g: int, mask: MaskBitmap | None) -> dict[str, Any]:
    x1, y1, x2, y2 = record.boxes[g].tolist()
    difficult = int(record.crowd[g])
    entry: dict[str, Any] = {
        "id": int(record.annotation_ids[g]),
        "image_id": record.image_id,
        "category_id": int(record.labels[g]) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1) if mask is None else int(mask.bits.sum()),
        "iscrowd": difficult,
        "difficult": difficult,
    }
    if mask is not None:
        entry["segmentation"] = encode(mask.full(record.height, record.width))
    return entry
