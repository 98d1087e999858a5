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
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.console import console, metrics_table
from maskrcnn.data.dataset import Dataset
from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import load_ground_truth
from maskrcnn.evaluation.evaluator import Evaluator, chosen_metric, score, write_tables
from maskrcnn.evaluation.metrics import kinds_of
from maskrcnn.evaluation.results import read_results
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.detector import MaskRCNN


@dataclass
class Eval(configs.Common):
    """Keys of tools/eval.py. Every other key of the checkpoint's config can be overridden, too.

    Args:
        checkpoint: a file of tools/train.py.
        trust_checkpoint: also build parts that are not this project's, for example your own operators.
        predictions: COCO results; with ``annotations``, no model is needed.
        annotations: COCO-format annotations to score ``predictions`` against.
    """

    checkpoint: str | None = None
    trust_checkpoint: bool = False
    predictions: str | None = None
    annotations: str | None = None


def main(arguments: Sequence[str]) -> None:
    """Score what the arguments name, print a table, write metrics.json."""
    own, rest = configs.split(arguments, Eval)
    settings = configs.compose_config("eval", own, Eval)
    if (settings.checkpoint is None) == (settings.predictions is None):
        raise UserError("give either checkpoint=FILE, or predictions=FILE with annotations=FILE")
    if settings.predictions is not None:
        if settings.annotations is None:
            raise UserError("predictions=FILE needs annotations=FILE, the ground truth in COCO format")
        return _score_file(settings.predictions, settings.annotations, settings.run_dir, rest)
    config, model, step = assembly.load_trained(
        settings.checkpoint, rest, configs.Train, settings.trust_checkpoint
    )
    device = assembly.open_device(settings.device, settings.threads)
    dataset = assembly.open_data(config, "val")
    assembly.check_categories(config, dataset)
    run_dir = assembly.open_run_dir(settings.run_dir)
    evaluator = evaluator_of(config, dataset, model.to(device), device)
    evaluator.run(run_dir, f"{settings.checkpoint}, step {step}", config.log.images)
    return None


def evaluator_of(config: DictConfig, dataset: Dataset, model: MaskRCNN, device: torch.device) -> Evaluator:
    """Scores ``model`` as ``config`` says."""
    evaluation = configs.settings_of(config.evaluation, Evaluation)
    loader = configs.build(config.data.test_loader)(
        dataset,
        configs.build(config.data.test_transform),
        evaluation.batch_size,
        num_images=evaluation.num_images,
        pin_memory=device.type == "cuda",
    )
    precision = config.get("precision", "fp32")
    return Evaluator(model, dataset, loader, device, evaluation, config.metric, precision)


def _score_file(predictions: str, annotations: str, run_dir: str | None, rest: Sequence[str]) -> None:
    config = configs.compose_config("train", rest)
    truth = load_ground_truth(annotations)
    found = read_results(Path(predictions), truth)
    metric, directory = chosen_metric(config.metric, "coco"), assembly.open_run_dir(run_dir)
    chosen = (metric, kinds_of(found), configs.settings_of(config.evaluation, Evaluation))
    metrics = score(found, truth, *chosen)
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=1))
    console.print(metrics_table(metrics, f"{predictions}: {len(found)} detections"))
    write_tables(found, truth, *chosen, directory)
