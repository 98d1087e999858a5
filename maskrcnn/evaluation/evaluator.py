"""Evaluates a model on a data set, during training and afterwards: predictions, metrics and pictures."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.progress import track

from maskrcnn.console import console, metrics_table
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.loader import EvalLoader
from maskrcnn.data.workers import BatchError
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.evaluation import voc
from maskrcnn.evaluation.areas import chosen_areas
from maskrcnn.evaluation.detect import detect_images, detect_in_tiles
from maskrcnn.evaluation.pictures import results_picture
from maskrcnn.evaluation.recall import average_recall
from maskrcnn.evaluation.score import Metrics, attempt, check_settings, chosen_metric, score, write_tables
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.prediction.detections import ImageDetections, Result
from maskrcnn.prediction.draw import Picture
from maskrcnn.prediction.tiles import Tiles

Found = dict[int, list[Result]]


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
            return detect_images(self.model, self.loader, self.device, self.precision)
        size = self.settings.batch_size
        return detect_in_tiles(self.model, self.loader, size, self.tiles, self.device, self.precision)

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
        predictions = self._predictions()
        if self.model.box_head is None and self.model.mask_head is None:
            most, ids = self.settings.max_dets, list(self._by_image)
            metrics = {
                "proposals": average_recall(predictions, self._truth, most, ids, self.settings.backend)
            }
        else:
            metrics = score(predictions, self._truth, self.metric, self.kinds(), self.settings)
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
        if self.model.box_head is not None or self.model.mask_head is not None:
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
        if self.model.box_head is None and self.model.mask_head is None:
            return [
                f"proposals/{name}" for name in (f"AR{self.settings.max_dets}", "AR50", "ARs", "ARm", "ARl")
            ]
        if self.metric == "voc":
            return [f"voc/{name}" for name in voc.FIGURES]
        sizes = {kind: chosen_areas(self.settings.area_ranges, kind) for kind in self.kinds()}
        return [f"{kind}/AP{name}" for kind, areas in sizes.items() for name in ("", "50", "75", *areas)]

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
