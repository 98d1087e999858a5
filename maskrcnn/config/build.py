"""Builds the parts of a run from a checked config: the data, the model, and a checkpoint's model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import compose as configs
from maskrcnn.config.channels import fill_channels
from maskrcnn.config.data import check_categories as check_categories
from maskrcnn.config.data import drop_augmentations
from maskrcnn.config.data import open_data as open_data
from maskrcnn.config.data import open_optional as open_optional
from maskrcnn.config.data import set_categories as set_categories
from maskrcnn.config.pretrained import drop_pretrained
from maskrcnn.config.trained import BUILDERS, ForPrediction, check_buildable, load_weights
from maskrcnn.config.trained import load_for_prediction as load_for_prediction
from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.training import checkpoint
from maskrcnn.training.distributed import open_device as open_device
from maskrcnn.training.recipe import Recipe
from maskrcnn.training.session import open_run_dir as open_run_dir


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
    path: str, overrides: list[str], schema: type, trust: bool = False
) -> tuple[DictConfig, MaskRCNN, int]:
    """Load a checkpoint of ``maskrcnn train``.

    Args:
        path: the file.
        overrides: changes of its config, as ``key=value``.
        schema: dataclass with all keys.
        trust: also call constructors outside this project that the config names, for example your own operators.

    Returns:
        The config, the model (with averaged weights if there are any) and the step.
    """
    content = checkpoint.load_model(path)
    check_buildable(path, content["config"])
    config = OmegaConf.create(content["config"])
    drop_augmentations(config)
    if not trust and (foreign := configs.foreign_targets(config)):
        raise UserError(
            f"checkpoint {path} would call {', '.join(foreign)}, which is not part of this project; "
            "set trust_checkpoint=true if you know where the file comes from"
        )
    drop_pretrained(config)
    config = configs.override_config(config, overrides, schema)
    model = build_model(config)
    load_weights(model, path, content)
    return config, model, content["step"]


def load_configured(path: str, overrides: Sequence[str], trust: bool) -> ForPrediction:
    """`load_for_prediction` for a config that Hydra composed. Arguments as there."""
    config, model, _ = load_trained(path, list(overrides), configs.Train, trust)
    return ForPrediction(
        model,
        configs.build(config.data.test_transform),
        configs.plain_list(config.categories),
        config.get("precision", "fp32"),
        config.data.test_loader.size_divisor,
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain values. References are kept, so that single keys can still be overridden."""
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def recipe_of(config: DictConfig) -> Recipe:
    """The config that a run's checkpoints store, unchanged and with its references resolved."""
    return Recipe(plain(config), configs.plain_dict(config))
