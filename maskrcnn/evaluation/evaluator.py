"""Evaluates a model on a data set, during training and afterwards: predictions, metrics and pictures."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import track

from maskrcnn.console import console, metrics_table
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.images import Pixels
from maskrcnn.data.loader import EvalBatch, EvalLoader
from maskrcnn.data.workers import BatchError
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.evaluation import voc
from maskrcnn.evaluation.coco import by_image_id
from maskrcnn.evaluation.diagnosis import mean_iou
from maskrcnn.evaluation.metrics import Metrics, check_settings, chosen_metric, evaluate, write_tables
from maskrcnn.evaluation.recall import average_recall
from maskrcnn.evaluation.settings import Evaluation, chosen_areas
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.prediction.batching import detect_batch, detect_plain
from maskrcnn.prediction.detections import ImageDetections, Result
from maskrcnn.prediction.draw import Picture, draw_outlines, draw_results, sheet, skeletons
from maskrcnn.prediction.tiles import Tiles, detect_tiled

Found = dict[int, list[Result]]
_COLUMNS = ("ground truth", "predictions", "worst by IoU")
PICTURE_TAG = "-".join(_COLUMNS).replace(" ", "_")  # TensorBoard does not allow spaces
_WIDTH = 420  # width of a panel in pixels
_BLANK = np.full((1, 1, 3), 255, np.uint8)


class Evaluator:
    """Evaluates a model on a data set.

    Call `run`. With several processes, call `detect` in each of them, and `score` with all results in one.

    Args:
        model: the current weights are evaluated at each call.
        dataset: its annotations are the ground truth.
        loader: the images of ``dataset`` for this process.
        device: the model's device.
        settings: see `Evaluation`.
        metric: ``coco`` or ``voc``; None is the data set's own.
        precision: precision of the arithmetic.
        shares: number of processes that share the images (for the progress bar).
    """

    def __init__(
        self,
        model: MaskRCNN,
        dataset: Dataset,
        loader: EvalLoader,
        device: torch.device,
        settings: Evaluation | None = None,
        metric: str | None = None,
        precision: Precision = "fp32",
        shares: int = 1,
    ) -> None:
        self.settings = settings or Evaluation()
        check_settings(self.settings)
        self.model, self.dataset, self.loader, self.device = model, dataset, loader, device
        self.precision, self.shares = precision, shares
        self.metric = chosen_metric(metric, dataset.metric)
        self._check_best_by()
        tile = self.settings.tile
        self.tiles = None if tile is None else Tiles(tile, self.settings.overlap)
        if self.tiles is not None and model.rpn is None:
            raise UserError("evaluation.tile needs a model with an RPN: given proposals are of whole images")
        self.names = {int(c["id"]): str(c["name"]) for c in dataset.categories}
        self.picture: Picture | None = None  # drawn by the last evaluation
        self._by_image: Found = {}
        self._truth: dict[str, Any] = {}

    def run(self, folder: Path, title: str, pictures: int) -> Metrics:
        """Detect objects in all images, and write metrics.json, predictions.json, tables and pictures.

        Args:
            folder: an existing folder.
            title: title of the printed table.
            pictures: number of images in predictions.png.
        """
        metrics = self.score([self.detect()], folder, title)
        self.write_extras(folder, pictures)
        return metrics

    def detect(self, should_stop: Callable[[], bool] = lambda: False) -> Found:
        """The results of this process's images by image id. Raises Interrupted when ``should_stop`` returns True."""
        self.model.eval()
        images = self._detections()
        total = min(self.settings.num_images or len(self.dataset), len(self.dataset)) // self.shares
        by_image: Found = {}
        stopped = Interrupted("while evaluating; the checkpoint is that of the last step")
        shown = track(images, "evaluating", total, console=console, disable=not console.is_terminal)
        try:
            for image_id, found in shown:
                if should_stop():
                    raise stopped
                by_image[image_id] = found.to_coco(image_id, self.dataset.category_ids)
        except BatchError:
            if should_stop():  # the workers received the signal too and end soon
                raise stopped from None
            raise
        return by_image

    def _detections(self) -> Iterator[tuple[int, ImageDetections]]:
        if self.tiles is None:
            yield from detect_images(self.model, self.loader, self.device, self.precision)
            return

        def detect(windows: Sequence[Pixels]) -> list[ImageDetections]:
            loader, size = self.loader, self.settings.batch_size
            rest = (size, self.device, self.precision, loader.size_divisor)
            return detect_plain(self.model, windows, loader.transform, *rest)

        for image_id, image in self.loader.images():
            yield image_id, detect_tiled(image, detect, self.tiles)

    def score(self, parts: Sequence[Found], folder: Path, title: str) -> Metrics:
        """Score the results of all processes, write metrics.json and predictions.json, and print the table.

        Args:
            parts: results of `detect` in each process.
            folder: an existing folder.
            title: title of the printed table.
        """
        found = {image_id: results for part in parts for image_id, results in part.items()}
        order = (self.dataset.image_id(index) for index in range(len(self.dataset)))
        self._by_image = {image_id: found[image_id] for image_id in order if image_id in found}
        self._truth = _of_images(self.dataset.ground_truth(), set(self._by_image))
        predictions, most, backend = self._predictions(), self.settings.max_dets, self.settings.backend
        if self._only_proposes:
            recall = average_recall(predictions, self._truth, most, list(self._by_image), backend)
            metrics: Metrics = {"proposals": recall}
        else:
            rest = (self.metric, most, None, self.kinds(), backend, self.settings.area_ranges)
            metrics = evaluate(predictions, self._truth, *rest)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
        (folder / "predictions.json").write_text(json.dumps(predictions))
        count = f"{len(self._by_image)} images, {len(predictions)} detections"
        console.print(metrics_table(metrics, f"{title}: {count}"))
        return metrics

    def write_extras(self, folder: Path, pictures: int) -> None:
        """Write the tables and pictures of the last `score`. A failure prints a warning.

        Args:
            folder: an existing folder.
            pictures: number of images in predictions.png.
        """
        if not self._only_proposes:
            chosen = (self.metric, self.kinds(), self.settings, folder)
            attempt("a table", lambda: write_tables(self._predictions(), self._truth, *chosen))
        self.picture = None
        attempt("predictions.png", lambda: self._write_picture(folder / "predictions.png", pictures))

    def kinds(self) -> list[str]:
        """The kinds of results that the model's heads are scored for."""
        heads = {
            "bbox": self.model.box_head,
            "segm": self.model.mask_head,
            "keypoints": self.model.keypoint_head,
        }
        return [kind for kind, head in heads.items() if head is not None]

    def metric_names(self) -> list[str]:
        """The metrics of `score`, as ``kind/name``."""
        if self._only_proposes:
            names = (f"AR{self.settings.max_dets}", "AR50", "ARs", "ARm", "ARl")
            return [f"proposals/{name}" for name in names]
        if self.metric == "voc":
            return [f"voc/{name}" for name in voc.FIGURES]
        sizes = {kind: chosen_areas(self.settings.area_ranges, kind) for kind in self.kinds()}
        return [f"{kind}/AP{name}" for kind, areas in sizes.items() for name in ("", "50", "75", *areas)]

    @property
    def _only_proposes(self) -> bool:
        return self.model.box_head is None and self.model.mask_head is None

    def _check_best_by(self) -> None:
        name, names = self.settings.best_by, self.metric_names()
        if name is not None and name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"evaluation.best_by={name}: no such metric{hint} There are: {', '.join(names)}")

    def _predictions(self) -> list[Result]:
        return [result for results in self._by_image.values() for result in results]

    def _write_picture(self, path: Path, most: int) -> None:
        kinds = [kind for kind in ("segm", "bbox") if kind in self.kinds()]
        kind = next((k for k in kinds if k == "bbox" or self.dataset.has_masks), None)
        self.picture = results_picture(self.dataset, self._by_image, self._truth, kind, most)
        if self.picture is not None:
            cv2.imwrite(str(path), self.picture[..., ::-1])


def _of_images(truth: dict[str, Any], ids: set[int]) -> dict[str, Any]:
    """The annotations of these images only."""
    images = [image for image in truth["images"] if image["id"] in ids]
    annotations = [a for a in truth["annotations"] if a["image_id"] in ids]
    return {**truth, "images": images, "annotations": annotations}


def detect_images(
    model: MaskRCNN, batches: Iterable[EvalBatch], device: torch.device, precision: Precision = "fp32"
) -> Iterator[tuple[int, ImageDetections]]:
    """Yield the id and the detections of every image, in pixels of the original image.

    Args:
        model: a detector.
        batches: images, their COCO ids and their original (height, width).
        device: the model's device.
        precision: precision of the arithmetic.
    """
    for images, image_ids, sizes, proposals in batches:
        found = detect_batch(model, images, sizes, device, precision, proposals)
        yield from zip(image_ids, found, strict=True)


def attempt(what: str, make: Callable[[], None]) -> None:
    """Call ``make``. A failure prints a warning, because metrics and weights are already written."""
    try:
        make()
    except Exception as error:
        console.print(
            f"warning: {what} could not be written ({type(error).__name__}: {error}); metrics.json is complete",
            style="yellow",
        )


def results_picture(
    dataset: Dataset,
    found: Mapping[int, list[dict[str, Any]]],
    truth: dict[str, Any],
    kind: str | None,
    most: int,
) -> Picture | None:
    """Draw a row for each of the first ``most`` images: ground truth, predictions, and another image of low IoU.

    Row k ends with the image of the k-th lowest mean IoU: its predictions with white outlines of the objects.

    Args:
        dataset: the images.
        found: COCO results by image id, of all evaluated images.
        truth: annotations of these images in COCO's format.
        kind: kind of IoU, ``bbox`` or ``segm``; None leaves out the images of low IoU.
        most: number of rows.

    Returns:
        RGB, or None without an image.
    """
    objects = by_image_id(entry for entry in truth["annotations"] if not entry.get("iscrowd"))
    place = {dataset.image_id(index): index for index in range(len(dataset))}
    everything = [result for results in found.values() for result in results]
    overlaps = {} if kind is None else mean_iou(everything, truth, kind)
    names = {int(c["id"]): str(c["name"]) for c in dataset.categories}
    lines = skeletons(dataset.categories)

    def drawn(image_id: int, results: Sequence[dict[str, Any]]) -> Picture:
        return draw_results(dataset.read(place[image_id]).image, results, names, skeletons=lines)

    def poor(image_id: int) -> Picture:
        caption = f"IoU {overlaps[image_id]:.2f}"
        return draw_outlines(drawn(image_id, found[image_id]), objects[image_id], caption)

    panels = [_heading(name) for name in _COLUMNS]
    for image_id, worst in zip_longest(list(found)[:most], sorted(overlaps, key=overlaps.__getitem__)[:most]):
        panels += [drawn(image_id, objects[image_id]), drawn(image_id, found[image_id])]
        panels.append(_BLANK if worst is None else poor(worst))
    return sheet(panels, columns=3, width=_WIDTH) if found and most else None


def _heading(name: str) -> Picture:
    strip = np.full((24, _WIDTH, 3), 255, np.uint8)
    cv2.putText(strip, name, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
