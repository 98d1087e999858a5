"""Opens the data that a config names, and compares its classes with the model's. It does not import torch."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import compose as configs
from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset
from maskrcnn.errors import UserError
from maskrcnn.evaluation.keypoints import oks_sigmas

# A category's keypoints are stored, so that predictions can be drawn and flipped.
_DRAWN = ("keypoints", "skeleton")


def open_data(config: DictConfig, split: str) -> Dataset:
    """Open the ``train`` or ``val`` split, and print its report. Raises UserError if there is none."""
    dataset = open_optional(config, split)
    if dataset is None:
        raise UserError(
            f"there is no {split} set to evaluate: give data.{split}_annotations=FILE and data.{split}_images=DIR"
        )
    return dataset


def open_optional(config: DictConfig, split: str) -> Dataset | None:
    """Open a split like `open_data`; None if the config names none."""
    source = configs.build(config.data.source)
    dataset: Dataset | None = getattr(source, split)()
    if dataset is None:
        return None
    _give_proposals(dataset, config, split)
    console.print(f"{split}: {len(dataset)} images, {len(dataset.categories)} classes")
    for line in dataset.report:
        console.print(f"  {line}", style="yellow")
    return dataset


def _give_proposals(dataset: Dataset, config: DictConfig, split: str) -> None:
    """Set the proposals that replace the RPN's. Raises UserError if the model has both, or neither."""
    proposals = config.proposals[split]
    if proposals is None and config.model.rpn is not None:
        return
    from maskrcnn.data.proposals import (
        GroundTruthBoxes,
        NoProposals,
        ProposalFile,
    )  # lazily, because it imports torch

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


def set_categories(config: DictConfig, dataset: Dataset) -> None:
    """Set the model's classes and keypoints to those of the data set, unless the config states other numbers."""
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
    if config.model.keypoint_head is None:
        return
    if not dataset.num_keypoints:
        raise UserError(
            "model.keypoint_head needs keypoints, but the categories of the data set have none; set "
            "model.keypoint_head=null, or give annotations whose categories have a list 'keypoints'"
        )
    oks_sigmas(dataset.categories)


def check_categories(config: DictConfig, dataset: Dataset) -> None:
    """Raise UserError if a model would be scored on other classes than it was trained for."""
    trained = {c["id"]: c["name"] for c in configs.plain(config.categories)}
    found = {int(c["id"]): str(c["name"]) for c in dataset.categories}
    if trained != found:
        raise UserError(
            f"the checkpoint has the categories {trained}, but the data set has {found}; "
            "fine-tune with init=CHECKPOINT init.reset_heads=true, or give the data set it was trained for"
        )


def drop_augmentations(config: DictConfig) -> None:
    """Remove the augmentations from a stored config that is not used for training. Their library may be missing."""
    if OmegaConf.select(config, "data.train_transform.augmentations"):
        config.data.train_transform.augmentations = None
