"""The interface between data sets and loaders."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maskrcnn.data.images import CorruptImageError, Pixels, read_image
from maskrcnn.data.keypoints import mirror_order
from maskrcnn.data.masks import MaskBitmap, encode
from maskrcnn.data.segmentation import decode, decode_all
from maskrcnn.errors import UserError

Floats = npt.NDArray[np.float32]
OnCorruptImage = Literal["stop", "skip"]


class ImageRecord(NamedTuple):
    """Annotations of an image with G objects, before the image is opened.

    Attributes:
        image_id: id of the image.
        file_name: path relative to the image folder.
        height: height in pixels.
        width: width in pixels.
        boxes: ``[G, 4]`` float32 x1, y1, x2, y2 in pixels of the image.
        labels: ``[G]`` int64.
        crowd: ``[G]`` bool.
        annotation_ids: ``[G]`` int64.
        segmentations: G of COCO's polygons or RLEs; None for an object without a mask.
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
    """An image with G objects, in pixels of the original image.

    Attributes:
        image: ``[H, W, 3]`` uint8 RGB.
        image_id: id of the image.
        boxes: ``[G, 4]`` float32 x1, y1, x2, y2.
        labels: ``[G]`` int64.
        crowd: ``[G]`` bool.
        masks: one per object; None for an object without a mask.
        keypoints: ``[G, J, 3]`` float32 (x, y continuous, visibility 0, 1 or 2), or None.
        proposals: ``[P, 5]`` float32, box and score (``[P, 6]`` with the label), or None.
        mirror_keypoints: for each of the J keypoints, the index of its counterpart in a mirror image.
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
    """Given regions of an image: ``[P, 5]`` float32, box and score, or ``[P, 6]`` with the label."""

    def of(self, image_id: int) -> Floats: ...


class Dataset(ABC):
    """Images with objects. Annotations are kept in one shared buffer, and images are opened when they are read.

    Args:
        records: annotations of each image.
        categories: dictionaries with ``id`` and ``name`` (and ``keypoints``), by ascending id. The index in this list
            is the label, ``0 .. K - 1``.
        images: folder of the images.
        on_corrupt_image: what the loaders do with an image that cannot be decoded: ``stop`` or ``skip``.
        report: a line for each kind of defect that was left out, with counts.

    Attributes:
        metric: the metric that the data set is scored by, ``coco`` or ``voc``.
        num_keypoints: J, the largest number of keypoints of a category.
        mirror_keypoints: see `Example`, derived from the names of the keypoints.
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
        self.categories, self.images = categories, images
        self.on_corrupt_image, self.report = on_corrupt_image, list(report)
        self.image_ids = np.array([r.image_id for r in records], np.int64)
        self.sizes = np.array([(r.height, r.width) for r in records], np.int64)  # [len, 2] (height, width)
        self.num_objects = np.array([len(r.labels) for r in records], np.int64)
        self.num_crowds = int(sum(r.crowd.sum() for r in records))
        self.has_masks = any(segmentation is not None for r in records for segmentation in r.segmentations)
        self.num_keypoints = max(0 if r.keypoints is None else r.keypoints.shape[1] for r in records)
        names = max((c.get("keypoints", ()) for c in categories), key=len, default=())
        self.mirror_keypoints = mirror_order(names) if self.num_keypoints else None
        self.proposals: Proposer | None = None
        self._records = _Records(records)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def category_ids(self) -> list[int]:
        """The file's category id of each label."""
        return [int(category["id"]) for category in self.categories]

    def image_id(self, index: int) -> int:
        return int(self.image_ids[index])

    def image_info(self, index: int) -> tuple[str, int, int]:
        """(file name, height, width) of an image."""
        record = self._records[index]
        return record.file_name, record.height, record.width

    def record(self, index: int) -> ImageRecord:
        """The annotations of an image, without decoding its masks."""
        return self._records[index]

    def labels(self, index: int) -> npt.NDArray[np.int64]:
        """The labels of an image's objects, without crowds. The image is not opened."""
        record = self._records[index]
        return record.labels[~record.crowd]

    def read(self, index: int) -> Example:
        """Read an image and its objects.

        Raises:
            CorruptImageError: the image cannot be decoded.
            UserError: the image has another size than its annotations state, or a mask cannot be read.
        """
        record = self._records[index]
        try:
            image = read_image(self.images / record.file_name, (record.height, record.width))
        except CorruptImageError as error:
            remedy = "replace it, or set data.on_corrupt_image=skip to continue without it"
            raise CorruptImageError(f"{error}; {remedy}") from error
        proposals = None if self.proposals is None else self.proposals.of(record.image_id)
        objects = record.boxes, record.labels, record.crowd, self.masks(record), record.keypoints
        return Example(image, record.image_id, *objects, proposals, self.mirror_keypoints)

    @abstractmethod
    def ground_truth(self) -> dict[str, Any]:
        """The annotations in COCO's format, for scoring."""

    def masks(self, record: ImageRecord) -> list[MaskBitmap | None]:
        """The masks of an image's objects."""
        drawn = [g for g, segmentation in enumerate(record.segmentations) if segmentation is not None]
        try:
            found = decode_all([record.segmentations[g] for g in drawn], record.height, record.width)
        except UserError:  # find the object, for the message
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
                f"{error}; fix or remove it (tools/check_data.py --fix does)"
            ) from error


class _Records:
    """The records, pickled in one buffer.

    A list of a million small Python objects grows by a copy per worker: reading an object writes its reference count,
    which un-shares its memory page after a fork. The buffer has no such counts. As a tensor, it is passed to spawned
    workers in shared memory.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        import torch  # lazily, so that checking and scoring annotations does not import it

        buffer, ends = bytearray(), [0]
        for record in records:
            buffer += pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(buffer))
        self._buffer, self._ends = torch.frombuffer(buffer, dtype=torch.uint8), torch.tensor(ends)

    def __getitem__(self, index: int) -> ImageRecord:
        begin, end = self._ends[index : index + 2].tolist()
        record: ImageRecord = pickle.loads(self._buffer.numpy()[begin:end].data)
        return record


def coco_entry(
    objects: Example | ImageRecord, g: int, mask: MaskBitmap | None, size: tuple[int, int]
) -> dict[str, Any]:
    """Object ``g`` of an image of ``size`` (height, width) in COCO's format, without id. Categories count from 1."""
    x1, y1, x2, y2 = objects.boxes[g].tolist()
    return {
        "image_id": objects.image_id,
        "category_id": int(objects.labels[g]) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1) if mask is None else int(mask.bits.sum()),
        "iscrowd": int(objects.crowd[g]),
        **({} if mask is None else {"segmentation": encode(mask.full(*size))}),
    }


def check_same_categories(train: Dataset, val: Dataset) -> None:
    """Raise UserError unless both splits have the same classes, so that labels mean the same in both."""
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
