"""From a checked config to the parts of a run: data, model, and what a checkpoint is tested with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import compose as configs
from maskrcnn.config.channels import fill_channels
from maskrcnn.config.pretrained import drop_pretrained
from maskrcnn.config.trained import BUILDERS, ForPrediction, check_buildable, load_weights
from maskrcnn.config.trained import load_for_prediction as load_for_prediction
from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.proposals import GroundTruthBoxes, NoProposals, ProposalFile
from maskrcnn.errors import UserError
from maskrcnn.evaluation.keypoints import oks_sigmas
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.training import checkpoint
from maskrcnn.training.devices import open_device as open_device
from maskrcnn.training.recipe import Recipe
from maskrcnn.training.recipe import flat as flat
from maskrcnn.training.run_dir import open_run_dir as open_run_dir

# A category's keypoints are stored, so that predictions can be drawn and mirrored.
_DRAWN = ("keypoints", "skeleton")


def open_data(config: DictConfig, split: str) -> Dataset:
    """The ``train`` or ``val`` split; what its reading reported is printed. Raises UserError where there is none."""
    dataset = open_optional(config, split)
    if dataset is None:
        raise UserError(
            f"there is no {split} set to evaluate: give data.{split}_annotations=FILE and data.{split}_images=DIR"
        )
    return dataset


def open_optional(config: DictConfig, split: str) -> Dataset | None:
    """As `open_data`; None where the config names no such split."""
    source = configs.build(config.data.source)
    dataset: Dataset | None = getattr(source, split)()
    if dataset is None:
        return None
    proposals = config.proposals[split]
    if split == "train" and proposals is not None and config.model.rpn is not None:
        raise UserError(
            f"proposals.train={proposals} leaves the model's RPN without anything to learn: set model.rpn=null"
        )
    if proposals == "ground_truth":
        dataset.proposals = NoProposals() if split == "train" else GroundTruthBoxes(dataset)
    elif proposals is not None:
        dataset.proposals = ProposalFile(proposals, config.proposals[f"most_{split}"])
    elif config.model.rpn is None:
        raise UserError(
            f"model.rpn=null needs proposals.{split}=FILE, of tools/propose.py or COCO results, "
            f"or proposals.{split}=ground_truth"
        )
    console.print(f"{split}: {len(dataset)} images, {len(dataset.categories)} classes")
    for line in dataset.report:
        console.print(f"  {line}", style="yellow")
    return dataset


def set_categories(config: DictConfig, dataset: Dataset) -> None:
    """The data set's classes and keypoints become the model's, unless the config says how many and they differ."""
    if config.num_classes is not None and config.num_classes != len(dataset.categories):
        raise UserError(
            f"num_classes={config.num_classes}, but the data set has {len(dataset.categories)} categories; "
            "leave num_classes out, it is read from the data"
        )
    config.num_classes = len(dataset.categories)
    config.categories = [
        {"id": int(c["id"]), "name": str(c["name"])} | {k: c[k] for k in _DRAWN if k in c}
        for c in dataset.categories
    ]
    config.num_keypoints = dataset.num_keypoints or None
    if config.model.keypoint_head is not None:
        check_keypoints(dataset)


def check_keypoints(dataset: Dataset) -> None:
    """Raise UserError where a keypoint head could not learn from ``dataset``, or could not be scored on it."""
    if not dataset.num_keypoints:
        raise UserError(
            "model.keypoint_head needs keypoints, but the categories of the data set list none; set "
            "model.keypoint_head=null, or give annotations whose categories have a list 'keypoints'"
        )
    oks_sigmas(dataset.categories)


def check_categories(config: DictConfig, dataset: Dataset) -> None:
    """Raise UserError where a model would be scored on other classes than it was trained for."""
    trained = {c["id"]: c["name"] for c in configs.plain_list(config.categories)}
    found = {int(c["id"]): str(c["name"]) for c in dataset.categories}
    if trained != found:
        raise UserError(
            f"the checkpoint knows the categories {trained}, but the data set has {found}; "
            "fine-tune with init=CHECKPOINT init.reset_heads=true, or give the data set it was trained for"
        )


def build_model(config: DictConfig) -> MaskRCNN:
    """The model that the config describes, channels-last; its weights in float64 if that is the precision."""
    model: MaskRCNN = (
        configs.build(config.model) if config.model.get("_target_") in BUILDERS else _from_parts(config)
    )
    if config.get("precision") == "fp64":
        model.double()
    return model.to(memory_format=torch.channels_last)


def _from_parts(config: DictConfig) -> MaskRCNN:
    """The backbone first, because the other parts take their numbers of channels from it."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    backbone = configs.build(config.model.backbone)
    fill_channels(config.model, getattr(backbone, "channels", None))
    OmegaConf.resolve(config.model)  # the head of a C4 model refers to the backbone's settings
    config.model.update(backbone=None, _partial_=True)
    model: MaskRCNN = configs.build(config.model)(backbone=backbone)
    return model


def load_trained(
    path: str, overrides: list[str], schema: type, trust: bool = False
) -> tuple[DictConfig, MaskRCNN, int]:
    """The config (with ``overrides``), model (its averaged weights, if any) and step of a checkpoint of tools/train.py.

    trust: also call constructors that its config names outside of the project (your own operators, say).
    """
    content = checkpoint.load_model(path)
    check_buildable(path, content["config"])
    config = OmegaConf.create(content["config"])
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
    """`load_for_prediction` for a config that Hydra builds."""
    config, model, _ = load_trained(path, list(overrides), configs.Train, trust)
    return ForPrediction(
        model,
        configs.build(config.data.test_transform),
        configs.plain_list(config.categories),
        config.get("precision", "fp32"),
        config.data.test_loader.size_divisor,
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, interpolations kept, so that single keys can still be overridden later."""
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def recipe_of(config: DictConfig) -> Recipe:
    """What the checkpoints of a run say about it: the config as it is, and with its references resolved."""
    return Recipe(plain(config), configs.plain_dict(config))
