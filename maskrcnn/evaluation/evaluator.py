"""Scoring a model on a data set: predictions, metrics and pictures, during training and afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from omegaconf import DictConfig
from rich.progress import track

from maskrcnn.config import compose as configs
from maskrcnn.console import console, metrics_table
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.workers import BatchError
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.evaluation.areas import chosen_areas
from maskrcnn.evaluation.backends import chosen_backend
from maskrcnn.evaluation.coco import Truth, load_ground_truth
from maskrcnn.evaluation.detect import detect_all
from maskrcnn.evaluation.metrics import Metric, evaluate, per_class, write_details
from maskrcnn.evaluation.recall import average_recall
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.prediction.detections import Result
from maskrcnn.prediction.draw import Picture, draw_results, sheet, side_by_side, skeletons
from maskrcnn.training.distributed import World

Metrics = dict[str, dict[str, float | None]]


def _of_images(truth: dict[str, Any], ids: set[int]) -> dict[str, Any]:
    """The annotations of these images alone."""
    images = [image for image in truth["images"] if image["id"] in ids]
    annotations = [a for a in truth["annotations"] if a["image_id"] in ids]
    return {**truth, "images": images, "annotations": annotations}


def chosen_metric(wanted: str | None, default: str) -> Metric:
    """The metric asked for, else the data set's own. Raises UserError for one that does not exist."""
    name = default if wanted is None else wanted
    if name == "coco":
        return "coco"
    if name == "voc":
        return "voc"
    raise UserError(f"metric={name}: there are coco and voc")


def check_settings(settings: DictConfig) -> None:
    """Raise UserError for what `score` would refuse of the config group ``evaluation``, before anything is trained."""
    if (given := settings.get("area_ranges")) is not None:
        chosen_areas(configs.plain_dict(given), "bbox")
    chosen_backend(settings.backend)


def score(
    predictions: list[Result],
    annotations: Truth,
    metric: Metric,
    kinds: Sequence[str],
    settings: DictConfig,
    folder: Path,
) -> Metrics:
    """The figures of ``predictions`` by the config's group ``evaluation``; tables and details that it asks for are
    printed and written into ``folder``.
    """
    truth, given = load_ground_truth(annotations), settings.get("area_ranges")
    areas = None if given is None else configs.plain_dict(given)
    if settings.get("per_class"):
        tables = per_class(predictions, truth, metric, settings.max_dets, kinds, settings.backend, areas)
        for kind, table in tables.items():
            console.print(metrics_table(table, f"{kind}, every class"))
        (folder / "per_class.json").write_text(json.dumps(tables, indent=1))
    if settings.details:
        write_details(
            predictions, truth, kinds, settings.max_dets, settings.cell, folder, areas, settings.backend
        )
    return evaluate(predictions, truth, metric, settings.max_dets, None, kinds, settings.backend, areas)


class Evaluator:
    """Scores ``model`` on ``dataset`` with the settings of ``config``, each process of ``world`` its batches."""

    def __init__(
        self,
        config: DictConfig,
        dataset: Dataset,
        model: MaskRCNN,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        check_settings(config.evaluation)
        self.settings, self.dataset, self.model, self.device = config.evaluation, dataset, model, device
        self.names = {c["id"]: c["name"] for c in config.categories}
        self.skeletons = skeletons(dataset.categories)
        self.precision, self.world = config.get("precision", "fp32"), world or World()
        make_loader = configs.build(config.data.test_loader)
        self.loader = make_loader(
            dataset,
            configs.build(config.data.test_transform),
            config.evaluation.batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            num_images=config.evaluation.num_images,
            pin_memory=device.type == "cuda",
        )
        self.picture: Picture | None = None
        self.metric = chosen_metric(config.metric, dataset.metric)
        self.details_dir = Path()

    def run(
        self, run_dir: Path, title: str, pictures: int, should_stop: Callable[[], bool] = lambda: False
    ) -> Metrics:
        """Detect, write predictions.json, metrics.json and predictions.png into ``run_dir``; return the metrics.

        Raises Interrupted, in all processes, where one of them ``should_stop`` before all images are seen.
        """
        self.world.share_buffers(self.model)
        self.model.eval()
        parts = self.world.gather(self._detect(should_stop))
        if self.world.share(lambda: any(part is None for part in parts)):
            raise Interrupted("while evaluating; the checkpoint is that of the last step")
        whole = [part for part in parts if part is not None]
        return self.world.share(lambda: self._report(whole, run_dir, title, pictures))

    def _detect(self, should_stop: Callable[[], bool]) -> dict[int, list[Result]] | None:
        """This process's images: results by id; None where it stopped early."""
        images = detect_all(self.model, self.loader, self.dataset.category_ids, self.device, self.precision)
        total = min(self.settings.num_images or len(self.dataset), len(self.dataset)) // self.world.size
        shown = console.is_terminal and self.world.is_main
        by_image: dict[int, list[Result]] = {}
        try:
            for image_id, results in track(images, "evaluating", total, console=console, disable=not shown):
                if should_stop():
                    return None
                by_image[image_id] = results
        except BatchError:
            # The signal reached the processes that load data too, which do not wait for long.
            if should_stop():
                return None
            raise
        return by_image

    def _report(
        self, parts: list[dict[int, list[Result]]], run_dir: Path, title: str, pictures: int
    ) -> Metrics:
        """Score all processes' results, in the order of the data set."""
        found = {image_id: results for part in parts for image_id, results in part.items()}
        order = (self.dataset.image_id(index) for index in range(len(self.dataset)))
        by_image = {image_id: found[image_id] for image_id in order if image_id in found}
        predictions = [result for results in by_image.values() for result in results]
        truth = self.dataset.ground_truth()
        self.details_dir = run_dir
        metrics = self._score(predictions, truth, list(by_image))
        (run_dir / "predictions.json").write_text(json.dumps(predictions))
        (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))
        console.print(
            metrics_table(metrics, f"{title}: {len(by_image)} images, {len(predictions)} detections")
        )
        self.picture = self._draw(by_image, truth["annotations"], pictures)
        if self.picture is not None:
            cv2.imwrite(str(run_dir / "predictions.png"), self.picture[..., ::-1])
        return metrics

    def _score(self, predictions: list[Result], truth: dict[str, Any], image_ids: list[int]) -> Metrics:
        settings = self.settings
        if self.model.box_head is None and self.model.mask_head is None:
            most, backend = settings.max_dets, settings.backend
            return {"proposals": average_recall(predictions, truth, most, image_ids, backend)}
        heads = {
            "bbox": self.model.box_head,
            "segm": self.model.mask_head,
            "keypoints": self.model.keypoint_head,
        }
        kinds = [kind for kind, head in heads.items() if head is not None]
        seen = _of_images(truth, set(image_ids))
        return score(predictions, seen, self.metric, kinds, settings, self.details_dir)

    def _draw(
        self, by_image: dict[int, list[Result]], annotations: list[dict[str, Any]], most: int
    ) -> Picture | None:
        """Ground truth on the left, predictions on the right, for the first images."""
        truth: dict[int, list[dict[str, Any]]] = {}
        for annotation in annotations:
            truth.setdefault(annotation["image_id"], []).append(annotation)
        rows: list[Picture] = []
        for index in range(len(self.dataset)):
            image_id = self.dataset.image_id(index)
            if len(rows) == most:
                break
            if image_id not in by_image:  # left out as damaged, or beyond evaluation.num_images
                continue
            image = self.dataset.read(index).image
            left, right = (
                draw_results(image, side, self.names, skeletons=self.skeletons)
                for side in (truth.get(image_id, []), by_image[image_id])
            )
            rows.append(side_by_side(left, right))
        return sheet(rows) if rows else None
