"""What every data set gives the loader, whatever the files it was read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maskrcnn.data.images import CorruptImageError, Pixels, read_image
from maskrcnn.data.keypoints import mirror_order
from maskrcnn.data.masks import MaskBitmap
from maskrcnn.data.segmentation import decode, decode_all
from maskrcnn.data.store import RecordStore
from maskrcnn.errors import UserError

Floats = npt.NDArray[np.float32]
OnCorruptImage = Literal["stop", "skip"]


class ImageRecord(NamedTuple):
    """What is known of one image before it is opened; G objects.

    boxes: ``[G, 4]`` float32 x1, y1, x2, y2 in the image's pixels. labels: ``[G]`` int64. crowd: ``[G]``
    bool. annotation_ids: ``[G]`` int64. segmentations: G of COCO's polygons or RLEs, None without one.
    keypoints: ``[G, J, 3]`` float32 (x, y continuous, visibility 0, 1 or 2), or None.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    boxes: Floats
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    annotation_ids: npt.NDArray[np.int64]
    segmentations: Sequence[Any]
    keypoints: Floats | None = None


@dataclass(frozen=True)
class Example:
    """One image with its objects, in the image's own pixels.

    image: ``[H, W, 3]`` uint8 RGB. boxes, labels, crowd, keypoints: as in ``ImageRecord``.
    masks: one per object, None for an object without a mask.
    proposals: ``[P, 5]`` float32, box and score (and label, ``[P, 6]``), where they are given beforehand.
    mirror_keypoints: for each of the J keypoints the one that it becomes in a mirror.
    """

    image: Pixels
    image_id: int
    boxes: Floats
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    masks: list[MaskBitmap | None]
    keypoints: Floats | None = None
    proposals: Floats | None = None
    mirror_keypoints: Sequence[int] | None = None


class Proposer(Protocol):
    """Regions given beforehand: ``[P, 5]`` float32, box and score, or ``[P, 6]`` with the label, of an image."""

    def of(self, image_id: int) -> Floats: ...


class Dataset(ABC):
    """Images with objects; the annotations lie in one shared buffer, images are opened when read.

    categories: dictionaries with ``id`` and ``name`` (and ``keypoints`` where there are some), by rising
    id: the place in this list is the label, ``0 .. K - 1``. report: a line for every kind of defect that
    was passed over, with counts. metric: what it is scored by, "coco" or "voc". num_keypoints: J, the most of
    any category. mirror_keypoints: see ``Example``, from the categories' names of keypoints.
    """

    metric = "coco"

    def __init__(
        self,
        records: Sequence[ImageRecord],
        categories: list[dict[str, Any]],
        images: Path,
        on_corrupt_image: OnCorruptImage = "stop",
        report: Sequence[str] = (),
    ) -> None:
        if on_corrupt_image not in ("stop", "skip"):
            raise UserError(f"on_corrupt_image={on_corrupt_image!r} is unknown; use 'stop' or 'skip'")
        if not records:
            raise UserError(f"the data set with images in {images} holds no image")
        self.categories = categories
        self.on_corrupt_image = on_corrupt_image
        self.report = list(report)
        self.images = images
        self.image_ids = np.array([r.image_id for r in records], np.int64)
        self.sizes = np.array([(r.height, r.width) for r in records], np.int64)  # [len, 2] (height, width)
        self.num_objects = np.array([len(r.labels) for r in records], np.int64)
        self.num_crowds = int(sum(r.crowd.sum() for r in records))
        self.has_masks = any(segmentation is not None for r in records for segmentation in r.segmentations)
        self.num_keypoints = max(
            (r.keypoints.shape[1] for r in records if r.keypoints is not None), default=0
        )
        names = max((c.get("keypoints", ()) for c in categories), key=len, default=())
        self.mirror_keypoints = mirror_order(names) if self.num_keypoints else None
        self.proposals: Proposer | None = None
        self._records = RecordStore(records)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def category_ids(self) -> list[int]:
        """The file's category id of each label."""
        return [int(category["id"]) for category in self.categories]

    def image_id(self, index: int) -> int:
        return int(self.image_ids[index])

    def image_info(self, index: int) -> tuple[str, int, int]:
        """(file name, height, width)."""
        record = self._records[index]
        return record.file_name, record.height, record.width

    def record(self, index: int) -> ImageRecord:
        """The annotations of one image, undecoded."""
        return self._records[index]

    def labels(self, index: int) -> npt.NDArray[np.int64]:
        """The labels of an image's objects, without crowds; the image is not opened."""
        record = self._records[index]
        return record.labels[~record.crowd]

    def read(self, index: int) -> Example:
        """The image and its objects.

        Raises CorruptImageError (a UserError) for an image that cannot be decoded, UserError for one of
        another size than its annotations say and for a mask that cannot be read.
        """
        record = self._records[index]
        try:
            image = read_image(self.images / record.file_name, (record.height, record.width))
        except CorruptImageError as error:
            remedy = "replace it, or set data.on_corrupt_image=skip to go on without it"
            raise CorruptImageError(f"{error}; {remedy}") from error
        return Example(
            image,
            record.image_id,
            record.boxes,
            record.labels,
            record.crowd,
            self.masks(record),
            record.keypoints,
            None if self.proposals is None else self.proposals.of(record.image_id),
            self.mirror_keypoints,
        )

    @abstractmethod
    def ground_truth(self) -> dict[str, Any]:
        """The annotations in COCO's format, for scoring."""

    def masks(self, record: ImageRecord) -> list[MaskBitmap | None]:
        """The masks of an image's objects."""
        drawn = [g for g, segmentation in enumerate(record.segmentations) if segmentation is not None]
        try:
            found = decode_all([record.segmentations[g] for g in drawn], record.height, record.width)
        except UserError:  # say whose it is
            found = [self._mask(record, g) for g in drawn]
        masks: list[MaskBitmap | None] = [None] * len(record.labels)
        for g, mask in zip(drawn, found, strict=True):
            masks[g] = mask
        return masks

    def _mask(self, record: ImageRecord, g: int) -> MaskBitmap | None:
        try:
            return decode(record.segmentations[g], record.height, record.width)
        except UserError as error:
            raise UserError(
                f"annotation {record.annotation_ids[g]} of image {record.image_id} ({record.file_name}): "
                f"{error}; mend or remove it (tools/check_data.py --fix does)"
            ) from error


def check_same_categories(train: Dataset, val: Dataset) -> None:
    """Raises UserError unless both splits have the same classes, so that labels mean the same in both."""
    first, second = ({c["id"]: c["name"] for c in data.categories} for data in (train, val))
    if first != second:
        differing = sorted(set(first.items()) ^ set(second.items()))
        remedy = ""
        if set(second.values()) <= set(first.values()):
            remedy = (
                "; the names are the same: tools/check_data.py annotations=VAL.json images=DIR --fix "
                "classes=TRAIN.json writes the validation annotations with the training's ids"
            )
        raise UserError(
            "the training and the validation annotations list different categories; "
            f"these (id, name) are only in one of them: {differing[:5]}{remedy}"
        )
