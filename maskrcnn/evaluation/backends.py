"""The packages that match detections with objects: hotcoco and pycocotools, which give the same results."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.errors import UserError

BACKENDS = ("hotcoco", "pycocotools")
Entries = list[dict[str, Any]]
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Accumulated:
    """An accumulated evaluation with pycocotools' names.

    Args:
        params: ``Params`` of pycocotools, or of hotcoco with the same attributes.
        eval: ``precision`` ``[T, R, K, A, M]`` and ``recall`` ``[T, K, A, M]``, -1 without objects.
        evaluation: the package's evaluation.
    """

    params: Any
    eval: dict[str, Any]
    evaluation: Any


def chosen_backend(name: str | None) -> str:
    """Select the package that computes the metrics.

    Args:
        name: "hotcoco" or "pycocotools"; None is hotcoco if it is installed, else pycocotools.

    Raises:
        UserError: unknown name, or hotcoco is not installed.
    """
    installed = importlib.util.find_spec("hotcoco") is not None
    if name is None:
        return "hotcoco" if installed else "pycocotools"
    if name not in BACKENDS:
        raise UserError(f"evaluation.backend={name}: there are {' and '.join(BACKENDS)}")
    if name == "hotcoco" and not installed:
        raise UserError(
            "evaluation.backend=hotcoco needs the package hotcoco: pip install hotcoco, or give "
            "evaluation.backend=pycocotools, which is slower and gives the same metrics"
        )
    return name


def accumulated(
    truth: COCO, results: Entries, iou_type: str, parameters: Mapping[str, Any], backend: str | None = None
) -> Accumulated:
    """Match ``results`` with the objects of ``truth``, and accumulate precision and recall.

    Args:
        truth: annotations with the keys that `load_ground_truth` adds.
        results: COCO results with what ``iou_type`` compares, and no other field that has a size.
        iou_type: "bbox", "segm", "keypoints", or "boundary", which only pycocotools supports.
        parameters: attributes of ``Params`` that differ from their defaults.
        backend: see `chosen_backend`.
    """
    if iou_type != "boundary" and chosen_backend(backend) == "hotcoco":
        return _run(_hotcoco(truth, results, iou_type), parameters)
    with silence():
        evaluator = BoundaryEval if iou_type == "boundary" else COCOeval
        return _run(evaluator(truth, _loaded(truth, results), iou_type), parameters)


def _run(evaluation: Any, parameters: Mapping[str, Any]) -> Accumulated:
    for name, value in parameters.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    return Accumulated(evaluation.params, evaluation.eval, evaluation)


def _hotcoco(truth: COCO, results: Entries, iou_type: str) -> Any:
    import hotcoco

    objects = hotcoco.COCO(truth.dataset)
    return hotcoco.COCOeval(objects, objects.load_res(results), iou_type)


def _loaded(truth: COCO, results: Entries) -> COCO:
    """Results as a COCO object; pycocotools' own ``loadRes`` cannot take an empty list."""
    if results:
        found: COCO = truth.loadRes(results)
    else:
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
    return found


class BoundaryEval(COCOeval):
    """Boundary AP (Cheng et al. 2021).

    The overlap of two masks is the smaller of their IoU and the IoU of the bands along their outlines. A band is 2 %
    of the image's diagonal wide.
    """

    def __init__(self, truth: COCO, results: COCO, iou_type: str = "segm") -> None:
        super().__init__(truth, results, "segm")  # type: ignore[no-untyped-call]

    def computeIoU(self, imgId: int, catId: int) -> Any:
        masks = super().computeIoU(imgId, catId)  # type: ignore[no-untyped-call]
        if len(masks) == 0:
            return masks
        found = sorted(self._dts[imgId, catId], key=lambda d: -d["score"])[: self.params.maxDets[-1]]
        objects = self._gts[imgId, catId]
        bands = [[outline_band(entry["segmentation"]) for entry in entries] for entries in (found, objects)]
        return np.minimum(masks, coco_mask.iou(*bands, [int(o["iscrowd"]) for o in objects]))


def outline_band(rle: dict[str, Any]) -> dict[str, Any]:
    """The part of a mask within 2 % of the image's diagonal of its outline, as RLE."""
    mask = coco_mask.decode(rle)
    width = max(round(0.02 * math.hypot(*mask.shape)), 1)
    inner = cv2.erode(np.pad(mask, 1), np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return dict(coco_mask.encode(np.asfortranarray(mask - inner)))


class _Muted:
    """Standard output without what one thread prints."""

    def __init__(self, stream: Any, thread: int) -> None:
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def silence() -> Iterator[None]:
    """A context that drops what this thread prints, as pycocotools does. Other threads are not affected."""
    with _ONE_AT_A_TIME:
        before = sys.stdout
        sys.stdout = _Muted(before, threading.get_ident())
        try:
            yield
        finally:
            sys.stdout = before
