"""Train a Mask R-CNN.

Usage: maskrcnn train [key=value ...]

Examples:
  maskrcnn train                                              generated shapes, a small FPN model
  maskrcnn train roi_op=pool model=r18_c5 run_dir=runs/pool   another operator, another stride
  maskrcnn train data=custom data.train_annotations=A.json data.train_images=DIR \\
                 data.val_annotations=B.json data.val_images=DIR init=imagenet model=r50_fpn
  maskrcnn train experiment=nuclei data.root=DIR              a whole recipe

The groups model, roi_op, data, schedule and experiment are folders of configs/; maskrcnn/config/schema.py has the other
keys and their defaults. Training resumes when the command is started again with the same run_dir. The run directory
receives config.yaml, last.pt, best.pt, metrics.json, predictions.json, predictions.png and TensorBoard events.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config.pretrained import drop_pretrained, pin_norms
from maskrcnn.console import console
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.training.distributed import World, joined
from maskrcnn.training.initialise import initialise
from maskrcnn.training.learner import be_deterministic
from maskrcnn.training.run_dir import stored_config
from maskrcnn.training.schedule import Schedule
from maskrcnn.training.settings import Checkpoints, Log
from maskrcnn.training.trainer import Trainer


def main(arguments: Sequence[str]) -> None:
    """Compose the config from ``key=value`` arguments, then train (or resume) and evaluate."""
    config = configs.compose_config("train", arguments)
    torch.manual_seed(config.seed)
    be_deterministic(config.deterministic)
    device = assembly.open_device(config.device, config.threads)
    with joined(device) as world:
        trainer(config, device, world).fit()


def trainer(config: DictConfig, device: torch.device, world: World) -> Trainer:
    """The trainer that ``config`` describes, with its data opened and its model built."""
    train_set, val_set = world.main_first(
        lambda: (assembly.open_data(config, "train"), assembly.open_optional(config, "val"))
    )
    assembly.set_categories(config, train_set)
    stored = world.share(lambda: stored_config(config.run_dir))
    pin_norms(config, stored)
    recipe = assembly.recipe_of(config)
    if stored is not None:
        drop_pretrained(config)
    if config.cuda_graphs and config.data.train_loader.buckets is None:
        sizes = (
            "cuda_graphs=true captures every size of canvas, and data.train_loader.buckets=128 keeps them few"
        )
        console.print(sizes, style="yellow")
    model = assembly.build_model(config)
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
    """Load the first weights of a new run, and print what was taken over."""
    start = initialise(model, source, reset_heads)
    console.print(f"started from {source}; {len(start.skipped)} entries not taken over")
    for line in start.words:
        console.print(line)
    for name, reason in start.skipped:
        console.print(f"  {name}: {reason}")
