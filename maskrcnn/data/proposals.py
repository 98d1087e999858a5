"""Given proposals: from a file (Fast R-CNN, ablations with fixed proposals), or the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from maskrcnn.data.dataset import Dataset, Floats
from maskrcnn.data.formats.coco_json import load_json
from maskrcnn.errors import UserError
from maskrcnn.structures import Proposals


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
        counts = [len(scores) for scores in self._scores]
        stored = _Stored(
            np.array(self._ids, np.int64),
            np.cumsum([0, *counts], dtype=np.int64),
            np.concatenate(self._boxes),
            np.concatenate(self._scores),
        )
        np.savez(path, **stored._asdict())
        return sum(counts)


def _read_npz(path: Path) -> _Stored:
    try:
        with np.load(path) as file:
            stored = _Stored(*(file[name] for name in _Stored._fields))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"the proposals {path} are no file of tools/propose.py ({error!r})") from error
    ends = stored.offsets[[0, -1]].tolist()
    shapes = (len(stored.image_ids) + 1, len(stored.scores), (len(stored.scores), 4))
    if ends != [0, len(stored.scores)] or (
        (len(stored.offsets), len(stored.boxes), stored.boxes.shape) != shapes
    ):
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
        rows = np.concatenate(
            [record.boxes, np.zeros((len(record.labels), 1)), record.labels[:, None]], axis=1
        )
        return rows[~record.crowd].astype(np.float32)


class NoProposals:
    """No proposals. Training adds the ground truth."""

    def of(self, image_id: int) -> Floats:
        """``[0, 5]`` float32."""
        return np.zeros((0, 5), np.float32)


def batch_proposals(proposals: Sequence[Floats | None]) -> Proposals | None:
    """Pad the proposals of each image to a common number, a multiple of 64; None if there are none.

    Args:
        proposals: ``[P_i, 5]`` of each image, or ``[P_i, 6]`` with labels.
    """
    given = [rows for rows in proposals if rows is not None]
    if not given:
        return None
    num = -(-max(max(len(rows) for rows in given), 1) // 64) * 64
    padded = torch.zeros(len(given), num, given[0].shape[1])
    valid = torch.zeros(len(given), num, dtype=torch.bool)
    for n, rows in enumerate(given):
        padded[n, : len(rows)] = torch.from_numpy(rows)
        valid[n, : len(rows)] = True
    labels = padded[..., 5].long() if padded.shape[-1] == 6 else None
    return Proposals(padded[..., :4].contiguous(), padded[..., 4].contiguous(), valid, labels)
