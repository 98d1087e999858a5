"""Builds the parts of a run from a checked config: model, trainer and evaluator, and the model of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import compose as configs
from maskrcnn.config.backbone import drop_pretrained, fill_channels, pin_norms
from maskrcnn.config.data import drop_augmentations, open_data, open_optional, set_categories
from maskrcnn.config.trained import BUILDERS, check_buildable, load_weights
from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.loader import EvalLoader
from maskrcnn.errors import UserError
from maskrcnn.evaluation.evaluator import Evaluator
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.convolution import use_fast_convolutions
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.receptive import receptive_field
from maskrcnn.training import checkpoint
from maskrcnn.training.distributed import World
from maskrcnn.training.initialise import initialise
from maskrcnn.training.recipe import Recipe
from maskrcnn.training.run_dir import stored_config
from maskrcnn.training.settings import Checkpoints, Log, Schedule
from maskrcnn.training.trainer import Trainer

# Keys of the config that have the same names as arguments of `Trainer`, those of ``data`` first.
_LOADING = ("train_transform", "test_transform", "train_loader", "test_loader")
_SAME = ("metric", "precision", "accumulate", "compile", "cuda_graphs", "fast_convolutions", "seed")


def build_model(config: DictConfig) -> MaskRCNN:
    """The model that the config describes, channels-last. Its weights are float64 if that is the precision."""
    model: MaskRCNN = (
        configs.build(config.model) if config.model.get("_target_") in BUILDERS else _from_parts(config)
    )
    if config.get("precision") == "fp64":
        model.double()
    return model.to(memory_format=torch.channels_last)


def _from_parts(config: DictConfig) -> MaskRCNN:
    """Build the backbone first, because the other parts need its numbers of channels."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    backbone = configs.build(config.model.backbone)
    fill_channels(config.model, getattr(backbone, "channels", None))
    OmegaConf.resolve(config.model)  # the head of a C4 model has references to the backbone's settings
    config.model.update(backbone=None, _partial_=True)
    model: MaskRCNN = configs.build(config.model)(backbone=backbone)
    return model


def load_trained(
    path: str, overrides: Sequence[str] = (), trust: bool = False
) -> tuple[DictConfig, MaskRCNN, int]:
    """Load a checkpoint of ``maskrcnn train``.

    Args:
        path: the file.
        overrides: changes of its config, as ``key=value``.
        trust: also call constructors outside this project that the config names, for example your own operators.

    Returns:
        The config, the model (with averaged weights if there are any) and the step.
    """
    content = checkpoint.load_model(path)
    check_buildable(path, content["config"])
    config = OmegaConf.create(content["config"])
    drop_augmentations(config)
    if not trust:
        configs.check_trusted(config, f"checkpoint {path}")
    drop_pretrained(config)
    config = configs.override_config(config, overrides)
    model = build_model(config)
    load_weights(model, path, content)
    if config.get("fast_convolutions", True):
        use_fast_convolutions(model)
    return config, model, content["step"]


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
    recipe = Recipe(configs.plain(config, resolve=False), configs.plain(config))
    if stored is not None:
        drop_pretrained(config)
    if config.cuda_graphs and config.data.train_loader.buckets is None:
        console.print(
            "cuda_graphs=true captures every size of canvas, and data.train_loader.buckets=128 keeps them few",
            style="yellow",
        )
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
        device=device,
        recipe=recipe,
        **{key: configs.build(config.data[key]) for key in _LOADING},
        **{key: config[key] for key in _SAME},
    )


def evaluator_of(config: DictConfig, dataset: Dataset, model: MaskRCNN, device: torch.device) -> Evaluator:
    """Build the evaluator.

    Args:
        config: a checked config.
        dataset: the validation set.
        model: the model to evaluate.
        device: the model's device.
    """
    evaluation = configs.settings_of(config.evaluation, Evaluation)
    loader = eval_loader_of(config, dataset, device, evaluation.num_images)
    return Evaluator(model, dataset, loader, device, evaluation, config.metric, config.precision)


def eval_loader_of(
    config: DictConfig, dataset: Dataset, device: torch.device, num_images: int | None = None
) -> EvalLoader:
    """The loader of ``dataset``'s images for a model on ``device``; ``num_images`` as in `Evaluation`."""
    loader: EvalLoader = configs.build(config.data.test_loader)(
        dataset,
        configs.build(config.data.test_transform),
        config.evaluation.batch_size,
        num_images=num_images,
        pin_memory=device.type == "cuda",
    )
    return loader


def _start_from(model: MaskRCNN, source: str, reset_heads: bool) -> None:
    """Load the initial weights of a new run, and print what was loaded."""
    start = initialise(model, source, reset_heads)
    console.print(f"started from {source}; {len(start.skipped)} entries not loaded")
    for line in start.words:
        console.print(line)
    for name, reason in start.skipped:
        console.print(f"  {name}: {reason}")


def pin_offset(config: DictConfig, stored: Mapping[str, Any] | None) -> None:
    """Replace ``offset: measured`` of the operators by a number, so that the stored config has the used value.

    Args:
        config: changed in place.
        stored: the config of the run that is resumed, which has the number; None for a new run.

    Raises:
        UserError: the heads do not read one map of the backbone, so there is no single offset.
    """
    nodes = {name: config[name] for name in configs.OPERATORS if configs.is_measured(config, name)}
    if not nodes:
        return
    offset = None if stored is not None else round(_measured(config), 4)
    for name, node in nodes.items():
        node.offset = offset if stored is None else stored[name]["offset"]


def _measured(config: DictConfig) -> float:
    pyramid = str(config.model.pyramid._target_)
    if not pyramid.endswith(".SingleMap"):
        raise UserError(
            f"offset=measured needs heads that read one map, as in model=r18_c5 or model=lite0_c4; this model has "
            f"{pyramid.rpartition('.')[2]}, and every stride has an offset of its own"
        )
    with torch.random.fork_rng():  # so that the model, which is built next, has the same random weights
        backbone = configs.build(config.model.backbone)
    stride = max(backbone.channels)
    field = receptive_field(backbone, stride)
    x, y = (
        f"{shift:+.2f} (standard error {error:.2f})"
        for shift, error in zip(field.shift, field.error, strict=True)
    )
    console.print(
        f"offset=measured: the receptive field of a cell of stride {stride} is centred {x} cells right of and {y} "
        f"below the middle of its block, so the offset is {field.offset:.4f}"
    )
    return field.offset
