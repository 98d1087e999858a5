"""The Semantic Boundaries Dataset (Hariharan et al. 2011): VOC's classes, masks of 11,355 images in MATLAB files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io.matlab import MatReadError, loadmat

from maskrcnn.data.dataset import ImageRecord, OnCorruptImage
from maskrcnn.data.defects import listed
from maskrcnn.data.formats.voc import CLASSES, VocClasses, categories, image_number, names_in, require
from maskrcnn.data.masks import MaskBitmap, bounds, crop_to_object
from maskrcnn.errors import UserError

# What scipy raises for damaged files.
_DAMAGED = (OSError, ValueError, TypeError, LookupError, EOFError, zlib.error, MatReadError)


class SbdDataset(VocClasses):
    """One split of SBD: the folder with img/, inst/ and lists of names such as train.txt and val.txt.

    Boxes are the bounds of the masks, and no object is ``difficult``. Every file of inst/ is read once at the start,
    which takes some milliseconds each. An object without pixels is left out and counted in ``report``.

    Args:
        root: the folder.
        split: name of the list.
        on_corrupt_image: see `CocoDataset`.

    Raises:
        UserError: with file and remedy.
    """

    def __init__(self, root: str | Path, split: str, on_corrupt_image: OnCorruptImage = "stop") -> None:
        self.root = Path(root)
        found = {name: read_record(self.root, name) for name in split_names(self.root, split)}
        empty = [f"{name}, object {number}" for name, (_, numbers) in found.items() for number in numbers]
        line = f"{self.root}: {len(empty)} x an object without a pixel, ignored ({listed(empty)})"
        report = [line] if empty else []
        records = [record for record, _ in found.values()]
        super().__init__(records, categories(), self.root / "img", on_corrupt_image, report)

    def masks(self, record: ImageRecord) -> list[MaskBitmap | None]:
        return record_masks(self.root, record)


@dataclass(frozen=True)
class SbdSource:
    """The splits of SBD.

    Args:
        root: the folder with img/ and inst/, or the unpacked archive (with benchmark_RELEASE).
        train_split: list to train on.
        val_split: list to validate on.
        on_corrupt_image: see `CocoDataset`.
    """

    root: str | None
    train_split: str = "train"
    val_split: str = "val"
    on_corrupt_image: OnCorruptImage = "stop"

    def train(self) -> SbdDataset:
        return SbdDataset(self._folder(), self.train_split, self.on_corrupt_image)

    def val(self) -> SbdDataset:
        return SbdDataset(self._folder(), self.val_split, self.on_corrupt_image)

    def _folder(self) -> Path:
        if self.root is None:
            raise UserError("data=sbd needs data.root=DIR, the folder with SBD's img/, inst/ and train.txt")
        return find_root(Path(self.root))


def find_root(folder: Path) -> Path:
    """The folder itself, or that of the published archive in it."""
    inside = (folder / part for part in ("benchmark_RELEASE/dataset", "dataset"))
    return next((path for path in inside if path.is_dir()), folder)


def split_names(root: Path, split: str) -> list[str]:
    """The image names of a split. Raises UserError if the folder or the split is not SBD's."""
    require(root, "SBD", ("img", "inst"), "img, inst and train.txt, as in benchmark_RELEASE/dataset")
    return names_in(root / f"{split}.txt")


def read_record(root: Path, name: str) -> tuple[ImageRecord, list[int]]:
    """Read the annotations of an image.

    Args:
        root: the folder of SBD.
        name: name of the image.

    Returns:
        The record, with object numbers as masks, and the numbers of objects without pixels.
    """
    if not (root / "img" / f"{name}.jpg").is_file():
        raise UserError(f"{root / 'img' / f'{name}.jpg'} is missing, but a split lists it")
    numbers, classes = read_instances(root / "inst" / f"{name}.mat")
    found = {k: crop_to_object(numbers == k) for k in range(1, len(classes) + 1)}
    seen = {k: mask for k, mask in found.items() if mask is not None}
    image_id = image_number(name)
    record = ImageRecord(
        image_id=image_id,
        file_name=f"{name}.jpg",
        height=numbers.shape[0],
        width=numbers.shape[1],
        boxes=np.array([bounds(mask) for mask in seen.values()], np.float32).reshape(-1, 4),
        labels=np.array([classes[k - 1] - 1 for k in seen], np.int64),
        crowd=np.zeros(len(seen), bool),
        annotation_ids=image_id * 1000 + np.array(list(seen), np.int64),
        segmentations=list(seen),
    )
    return record, [k for k in found if k not in seen]


def record_masks(root: Path, record: ImageRecord) -> list[MaskBitmap | None]:
    """The masks of an image's objects, from inst/."""
    if not record.segmentations:
        return []
    numbers, _ = read_instances(root / "inst" / f"{Path(record.file_name).stem}.mat")
    return [crop_to_object(numbers == k) for k in record.segmentations]


def read_instances(path: Path) -> tuple[npt.NDArray[np.uint16], list[int]]:
    """Read an inst/ file.

    Returns:
        The object numbers ``[H, W]``, 0 for background, and each object's class, 1..20.

    Raises:
        UserError: the file is missing, damaged or inconsistent.
    """
    if not path.is_file():
        raise UserError(f"the annotation {path} is missing, but a split lists its image")
    try:
        content: Any = loadmat(path, variable_names=["GTinst"])["GTinst"][0, 0]
        numbers = np.asarray(content["Segmentation"])
        classes = [int(number) for number in np.asarray(content["Categories"]).reshape(-1)]
    except _DAMAGED as error:
        raise UserError(
            f"{path} is damaged, or has no GTinst with Segmentation and Categories ({error}); unpack or download it "
            "again"
        ) from error
    if numbers.ndim != 2 or numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer):
        raise UserError(f"{path}: Segmentation is {numbers.dtype} {numbers.shape}, not an image of objects")
    if unknown := sorted({number for number in classes if not 1 <= number <= len(CLASSES)}):
        raise UserError(f"{path} has the classes {unknown}; VOC's are numbered 1..{len(CLASSES)}")
    if int(numbers.max()) > len(classes) or int(numbers.min()) < 0:
        raise UserError(
            f"{path} shows objects {int(numbers.min())}..{int(numbers.max())}, but lists {len(classes)} classes"
        )
    return numbers.astype(np.uint16), classes
