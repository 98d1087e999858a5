"""Score a checkpoint, or a file of predictions.

Usage: maskrcnn eval checkpoint=FILE [key=value ...]

Examples:
  maskrcnn eval checkpoint=runs/a/best.pt                 on the data it was trained with
  maskrcnn eval checkpoint=runs/a/best.pt data=custom data.val_annotations=B.json data.val_images=DIR
  maskrcnn eval checkpoint=runs/a/best.pt roi_op=pool     trained with one operator, tested with another
  maskrcnn eval predictions=P.json annotations=A.json run_dir=DIR

Writes metrics.json into run_dir; with a checkpoint also predictions.json and predictions.png.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from maskrcnn.config import compose as configs
from maskrcnn.config.data import check_categories, open_data
from maskrcnn.console import console, metrics_table
from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import load_ground_truth
from maskrcnn.evaluation.metrics import chosen_metric, evaluate, kinds_of, write_tables
from maskrcnn.evaluation.results import read_results
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.training.interruption import interruptible
from maskrcnn.training.session import open_run_dir


@dataclass
class Eval(configs.Common, configs.OfCheckpoint):
    """Keys of ``maskrcnn eval``.

    Args:
        predictions: COCO results. With ``annotations``, no model is needed.
        annotations: COCO-format annotations to score ``predictions`` against.
    """

    predictions: str | None = None
    annotations: str | None = None


@dataclass
class Scoring:
    """Further keys for scoring ``predictions``.

    Args:
        metric: ``coco`` or ``voc``; None is coco.
        evaluation: max_dets, area_ranges, backend, per_class and details are used.
    """

    metric: str | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)


def main(arguments: Sequence[str]) -> None:
    """Score a checkpoint or predictions, print a table, and write metrics.json."""
    settings, rest = configs.compose_command("eval", arguments, Eval)
    if (settings.checkpoint is None) == (settings.predictions is None):
        raise UserError("give either checkpoint=FILE, or predictions=FILE with annotations=FILE")
    if settings.predictions is None:
        _evaluate(settings, rest)
    elif settings.annotations is None:
        raise UserError("predictions=FILE needs annotations=FILE, the ground truth in COCO format")
    else:
        _score_file(settings.predictions, settings.annotations, settings.run_dir, rest)


def _evaluate(settings: DictConfig, overrides: Sequence[str]) -> None:
    with interruptible():  # imported lazily, because torch takes seconds and _score_file does not need it
        from maskrcnn.config.build import evaluator_of, load_trained
        from maskrcnn.training.distributed import open_device

    config, model, step = load_trained(settings.checkpoint, overrides, settings.trust_checkpoint)
    device = open_device(settings.device, settings.threads)
    dataset = open_data(config, "val")
    check_categories(config, dataset)
    run_dir = open_run_dir(settings.run_dir)
    evaluator = evaluator_of(config, dataset, model.to(device), device)
    evaluator.run(run_dir, f"{settings.checkpoint}, step {step}", config.log.images)


def _score_file(predictions: str, annotations: str, run_dir: str | None, overrides: Sequence[str]) -> None:
    settings = configs.compose_config("scoring", overrides, Scoring)
    truth = load_ground_truth(annotations)
    found = read_results(Path(predictions), truth)
    metric, directory = chosen_metric(settings.metric, "coco"), open_run_dir(run_dir)
    kinds, own = kinds_of(found), configs.settings_of(settings.evaluation, Evaluation)
    metrics = evaluate(found, truth, metric, own.max_dets, None, kinds, own.backend, own.area_ranges)
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=1))
    console.print(metrics_table(metrics, f"{predictions}: {len(found)} detections"))
    write_tables(found, truth, metric, kinds, own, directory)
