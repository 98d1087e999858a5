"""Proposals given beforehand: from a file (Fast R-CNN, ablations with fixed proposals), or the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maskrcnn.data.coco_json import load_json
from maskrcnn.data.dataset import Dataset, Floats
from maskrcnn.errors import UserError
from maskrcnn.structures import Proposals


class ProposalFile:
    """Boxes by image, from COCO results: ``image_id``, ``bbox`` (x, y, width, height), ``score``.

    path: the json. most: boxes kept per image, the best ones.
    Raises UserError for a file that is not a list of such results.
    """

    def __init__(self, path: str | Path, most: int) -> None:
        self.path = Path(path)
        results = load_json(self.path)
        try:
            ids = np.array([result["image_id"] for result in results], np.int64)
            rows = np.array([[*result["bbox"], result["score"]] for result in results], np.float32)
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"the proposals {path} must be a list of {{image_id, bbox: [x, y, width, height], score}} ({error!r})"
            ) from error
        rows = rows.reshape(-1, 5)
        rows[:, 2:4] += rows[:, :2]
        order = np.lexsort((-rows[:, 4], ids))
        self._rows, self._ids = rows[order], ids[order]
        self.most = most

    def of(self, image_id: int) -> Floats:
        """``[P, 5]`` float32: x1, y1, x2, y2 in the image's pixels and the score, by falling score."""
        begin, end = np.searchsorted(self._ids, [image_id, image_id + 1])
        return self._rows[begin : min(int(end), int(begin) + self.most)]


class GroundTruthBoxes:
    """The objects' own boxes and labels as proposals: a comparison of masks without proposals or classes in it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._place = {dataset.image_id(index): index for index in range(len(dataset))}

    def of(self, image_id: int) -> Floats:
        """``[P, 6]`` float32: x1, y1, x2, y2 in the image's pixels, a score of 0 (a logit), the label; no crowds."""
        record = self.dataset.record(self._place[image_id])
        rows = np.concatenate(
            [record.boxes, np.zeros((len(record.labels), 1)), record.labels[:, None]], axis=1
        )
        return rows[~record.crowd].astype(np.float32)


class NoProposals:
    """Nothing besides the ground truth, which training joins to the proposals anyway."""

    def of(self, image_id: int) -> Floats:
        """``[0, 5]`` float32."""
        return np.zeros((0, 5), np.float32)


def batch_proposals(proposals: Sequence[Floats | None]) -> Proposals | None:
    """``[P_i, 5]`` of each image, or ``[P_i, 6]`` with labels, padded to a common number (a multiple of 64).

    None where images have none.
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
