"""Given proposals: from a file (Fast R-CNN, ablations with fixed proposals), or the ground truth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import Dataset, Floats
from maskrcnn.data.formats.coco_json import load_json
from maskrcnn.errors import UserError


class ProposalFile:
    """Boxes by image, from a file.

    Args:
        path: a file of `ProposalWriter` (``.npz``), or COCO results (json) with ``image_id``, ``bbox`` (x, y, width,
            height) and ``score``.
        most: number of boxes to keep per image, those with the highest scores.

    Raises:
        UserError: the file is neither.
    """

    def __init__(self, path: str | Path, most: int) -> None:
        self.path, self.most = Path(path), most
        stored = _read_npz(self.path) if self.path.suffix == ".npz" else _read_json(self.path)
        self._boxes, self._scores, offsets = stored.boxes, stored.scores, stored.offsets.tolist()
        self._span = dict(zip(stored.image_ids.tolist(), pairwise(offsets), strict=True))

    def of(self, image_id: int) -> Floats:
        """``[P, 5]`` float32: x1, y1, x2, y2 in pixels of the image and the score, by descending score."""
        begin, end = self._span.get(image_id, (0, 0))
        best = slice(begin, min(end, begin + self.most))
        return np.concatenate([self._boxes[best], self._scores[best, None]], axis=1)


class _Stored(NamedTuple):
    """P boxes of I images.

    Attributes:
        image_ids: ``[I]`` int64.
        offsets: ``[I + 1]`` int64. Image i has the boxes from ``offsets[i]`` to ``offsets[i + 1]``, by descending
            score.
        boxes: ``[P, 4]`` float32 x1, y1, x2, y2 in pixels of the image.
        scores: ``[P]`` float32.
    """

    image_ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    boxes: Floats
    scores: Floats


class ProposalWriter:
    """Collects boxes image by image for one ``.npz`` file with the arrays of `_Stored`, 20 bytes per box."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._boxes: list[Floats] = []
        self._scores: list[Floats] = []

    def add(self, image_id: int, boxes: Floats, scores: Floats) -> None:
        """Add the boxes of an image.

        Args:
            image_id: id of the image.
            boxes: ``[P, 4]`` x1, y1, x2, y2 in pixels of the image.
            scores: ``[P]``.
        """
        order = np.argsort(-scores, kind="stable")
        self._ids.append(image_id)
        self._boxes.append(boxes[order].astype(np.float32))
        self._scores.append(scores[order].astype(np.float32))

    def write(self, path: Path) -> int:
        """Write the file. Returns the number of boxes."""
        offsets = np.cumsum([0, *map(len, self._scores)], dtype=np.int64)
        boxes, scores = np.concatenate(self._boxes), np.concatenate(self._scores)
        np.savez(path, **_Stored(np.array(self._ids, np.int64), offsets, boxes, scores)._asdict())
        return len(scores)


def _read_npz(path: Path) -> _Stored:
    try:
        with np.load(path) as file:
            stored = _Stored(*(file[name] for name in _Stored._fields))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"the proposals {path} are no file of tools/propose.py ({error!r})") from error
    count, ends = len(stored.scores), stored.offsets[[0, -1]].tolist()
    shapes = stored.offsets.shape, stored.boxes.shape
    if ends != [0, count] or shapes != ((len(stored.image_ids) + 1,), (count, 4)):
        raise UserError(f"the proposals {path} are damaged: numbers of images, boxes and scores differ")
    return stored


def _read_json(path: Path) -> _Stored:
    results = load_json(path)
    try:
        ids = np.array([result["image_id"] for result in results], np.int64)
        rows = np.array([[*result["bbox"], result["score"]] for result in results], np.float32)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"the proposals {path} must be a list of {{image_id, bbox: [x, y, width, height], score}} ({error!r})"
        ) from error
    rows = rows.reshape(-1, 5)
    rows[:, 2:4] += rows[:, :2]
    rows = rows[np.lexsort((-rows[:, 4], ids))]
    image_ids, counts = np.unique(ids, return_counts=True)
    return _Stored(image_ids, np.cumsum([0, *counts]), rows[:, :4], rows[:, 4])


class GroundTruthBoxes:
    """The ground-truth boxes and labels as proposals, to compare masks without the effect of proposals and classes."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._place = {dataset.image_id(index): index for index in range(len(dataset))}

    def of(self, image_id: int) -> Floats:
        """Boxes, scores and labels ``[P, 6]`` float32, without crowds.

        Boxes are x1, y1, x2, y2 in pixels of the image. The score is 0 (a logit).
        """
        record = self.dataset.record(self._place[image_id])
        rows = np.column_stack([record.boxes, np.zeros(len(record.labels)), record.labels])
        return rows[~record.crowd].astype(np.float32)


class NoProposals:
    """No proposals. Training adds the ground truth."""

    def of(self, image_id: int) -> Floats:
        """``[0, 5]`` float32."""
        return np.zeros((0, 5), np.float32)
