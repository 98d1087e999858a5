"""Builds the trainer and the evaluator that a config describes."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from maskrcnn.config import compose as configs
from maskrcnn.config.build import build_model, recipe_of
from maskrcnn.config.data import open_data, open_optional, set_categories
from maskrcnn.config.offset import pin_offset
from maskrcnn.config.pretrained import drop_pretrained, pin_norms
from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset
from maskrcnn.evaluation.evaluator import Evaluator
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.training.distributed import World
from maskrcnn.training.initialise import initialise
from maskrcnn.training.run_dir import stored_config
from maskrcnn.training.settings import Checkpoints, Log, Schedule
from maskrcnn.training.trainer import Trainer


def trainer(config: DictConfig, device: torch.device, world: World) -> Trainer:
    """Build the trainer: open the data and build the model.

    Args:
        config: a checked config.
        device: see `open_device`.
        world: the processes of the run.
    """
    train_set, val_set = world.main_first(lambda: (open_data(config, "train"), open_optional(config, "val")))
    set_categories(config, train_set)
    stored = world.share(lambda: stored_config(config.run_dir))
    pin_norms(config, stored)
    pin_offset(config, stored)
    recipe = recipe_of(config)
    if stored is not None:
        drop_pretrained(config)
    if config.cuda_graphs and config.data.train_loader.buckets is None:
        sizes = (
            "cuda_graphs=true captures every size of canvas, and data.train_loader.buckets=128 keeps them few"
        )
        console.print(sizes, style="yellow")
    model = build_model(config)
    if stored is None and config.init.weights not in (None, "imagenet"):
        _start_from(model, config.init.weights, config.init.reset_heads)
    return Trainer(
        model,
        train_set,
        val_set,
        config.run_dir,
        schedule=configs.settings_of(config.schedule, Schedule),
        checkpoints=configs.settings_of(config.checkpoint, Checkpoints),
        evaluation=configs.settings_of(config.evaluation, Evaluation),
        log=configs.settings_of(config.log, Log),
        train_transform=configs.build(config.data.train_transform),
        test_transform=configs.build(config.data.test_transform),
        train_loader=configs.build(config.data.train_loader),
        test_loader=configs.build(config.data.test_loader),
        metric=config.metric,
        device=device,
        precision=config.precision,
        accumulate=config.accumulate,
        compile=config.compile,
        cuda_graphs=config.cuda_graphs,
        fast_gradients=config.get("fast_gradients", True),
        seed=config.seed,
        recipe=recipe,
    )


def _start_from(model: MaskRCNN, source: str, reset_heads: bool) -> None:
    """Load the initial weights of a new run, and print what was loaded."""
    start = initialise(model, source, reset_heads)
    console.print(f"started from {source}; {len(start.skipped)} entries not loaded")
    for line in start.words:
        console.print(line)
    for name, reason in start.skipped:
        console.print(f"  {name}: {reason}")


def evaluator_of(config: DictConfig, dataset: Dataset, model: MaskRCNN, device: torch.device) -> Evaluator:
    """Build the evaluator.

    Args:
        config: a checked config.
        dataset: the validation set.
        model: the model to evaluate.
        device: the model's device.
    """
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
