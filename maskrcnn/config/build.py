"""From a checked config to the parts of a run: data, model, optimizer, run directory."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import compose as configs
from maskrcnn.config.pretrained import drop_pretrained
from maskrcnn.config.renamed import with_present_names
from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset, check_same_categories
from maskrcnn.data.proposals import GroundTruthBoxes, NoProposals, ProposalFile
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.evaluation.keypoints import oks_sigmas
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.training import checkpoint
from maskrcnn.training.distributed import local_rank

# What a category says of its keypoints, kept so that predictions can be drawn and mirrored.
_DRAWN = ("keypoints", "skeleton")
# Changing these does not change what a run computes, so a resumed run may.
_FREE = (
    "run_dir",
    "device",
    "threads",
    "debug",
    "checkpoint",
    "log",
    "evaluation",
    "data.num_workers",
    "data.on_corrupt_image",
    "data.source.on_corrupt_image",
    "accumulate",
    "compile",
    "cuda_graphs",
)
# What ends early is gone on with otherwise: a resumed run may change these, which is said.
CHANGEABLE = (
    "schedule.steps",
    "schedule.lr",
    "schedule.warmup_steps",
    "schedule.clip_norm",
    "schedule.max_loss",
    "precision",
)
# Where things lie, but for the two words below; `check_same_data` compares what lies there.
_PLACES = (
    "data.root",
    *(f"data.{split}{what}" for split in ("", "train_", "val_") for what in ("annotations", "images")),
    "proposals.train",
    "proposals.val",
    "init.weights",
)
_NO_PLACES = ("ground_truth", "imagenet")


def open_run_dir(run_dir: str | None) -> Path:
    """The run directory, made if need be; ``runs/<date-time>`` without a name."""
    path = Path(run_dir or f"runs/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir={path} cannot be made: {error}") from error
    console.print(f"run directory: {path}")
    return path


def open_device(name: str, threads: int | None) -> torch.device:
    """The device asked for. ``auto`` is a CUDA device (under torchrun each process's own), or the CPU without one."""
    if threads is not None:
        cores = os.cpu_count() or 1
        if threads > 8 * cores:
            raise UserError(f"threads={threads}: this machine has {cores} cores; left out, all are used")
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and (rank := local_rank()) is not None:
        name = f"cuda:{rank}"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"device={name} cannot be used: {str(error).splitlines()[0]}; try device=cpu"
        ) from error
    return device


def open_data(config: DictConfig, split: str) -> Dataset:
    """The ``train`` or ``val`` split; what its reading reported is printed."""
    source = configs.build(config.data.source)
    dataset: Dataset = getattr(source, split)()
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


def check_learnable(config: DictConfig, train_set: Dataset, val_set: Dataset) -> None:
    """Raise UserError where the model could not learn from the annotations, or could not be scored on them."""
    check_same_categories(train_set, val_set)
    if (objects := int(train_set.num_objects.sum())) == train_set.num_crowds:
        marked = f": all {objects} are marked iscrowd=1" if objects else ""
        raise UserError(f"the training annotations hold no object to learn from{marked}")
    for words, dataset in (("training", train_set), ("validation", val_set)):
        lacking = dataset.num_objects.any() and not dataset.has_masks
        if config.model.mask_head is not None and lacking:
            raise UserError(
                f"the {words} annotations have no masks (segmentation); set model.mask_head=null for boxes alone"
            )


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
    model: MaskRCNN = configs.build(config.model)
    if config.get("precision") == "fp64":
        model.double()
    return model.to(memory_format=torch.channels_last)


def load_trained(
    path: str, overrides: list[str], schema: type, trust: bool = False
) -> tuple[DictConfig, MaskRCNN, int]:
    """The config (with ``overrides``), model (its averaged weights, if any) and step of a checkpoint of tools/train.py.

    trust: also call constructors that its config names outside of the project (your own operators, say).
    """
    content = checkpoint.load_model(path)
    config = OmegaConf.create(with_present_names(content["config"]))
    if not trust and (foreign := configs.foreign_targets(config)):
        raise UserError(
            f"checkpoint {path} would call {', '.join(foreign)}, which is not part of this project; "
            "set trust_checkpoint=true if you know where the file comes from"
        )
    drop_pretrained(config)
    config = configs.override_config(config, overrides, schema)
    model = build_model(config)
    try:
        model.load_state_dict(content["model"] if content.get("ema") is None else content["ema"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit the model of its config: {error}") from error
    return config, model, content["step"]


class ForPrediction(NamedTuple):
    """What a checkpoint says of how its model is to be shown pictures. categories: by label, ``id`` and ``name``."""

    model: MaskRCNN
    transform: Transform
    categories: list[dict[str, Any]]
    precision: Precision
    size_divisor: int


def load_for_prediction(path: str, overrides: Sequence[str] = (), trust: bool = False) -> ForPrediction:
    """The model of a checkpoint of tools/train.py, arguments as in `load_trained`, and what it was tested with."""
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


def check_same_run(config: DictConfig, stored: dict[str, Any], run_dir: Path) -> list[str]:
    """What a resumed run changes, in words. Raises UserError for settings that make it another run."""
    before, now = flat(stored), flat(plain(config))
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not _within(key, _FREE)
        # What a run that was resumed by an older version says of a pretrained backbone.
        and not (key.startswith("model.") and key.endswith(".weights") and before.get(key) is None)
    ]
    said = [key for key in changed if key in CHANGEABLE or _moved(key, before.get(key), now.get(key))]
    if refused := [key for key in changed if key not in said][:10]:
        listed = "\n".join(f"  {key}: {before.get(key)!r} before, {now.get(key)!r} now" for key in refused)
        raise UserError(
            f"run_dir={run_dir} holds a run with other settings:\n{listed}\n"
            "give another run_dir, or repeat the settings to resume it"
        )
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in said]


def _within(key: str, groups: Sequence[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _moved(key: str, before: Any, now: Any) -> bool:
    """Whether a setting names another place for what may be the same content."""
    return key in _PLACES and not {before, now} & set(_NO_PLACES)


def data_summary(train_set: Dataset, val_set: Dataset) -> dict[str, dict[str, Any]]:
    """What tells the splits from others wherever they lie: counts, and a digest of ids, sizes and objects by image."""
    return {"train": _summary(train_set), "val": _summary(val_set)}


def _summary(dataset: Dataset) -> dict[str, Any]:
    rows = np.column_stack([dataset.image_ids, dataset.sizes, dataset.num_objects])
    by_id = np.ascontiguousarray(rows[np.argsort(dataset.image_ids)], "<i8")
    digest = hashlib.sha256(by_id.tobytes()).hexdigest()[:16]
    return {"images": len(dataset), "objects": int(dataset.num_objects.sum()), "digest": digest}


def check_same_data(
    data: dict[str, dict[str, Any]], stored: dict[str, dict[str, Any]], run_dir: Path
) -> None:
    """Raise UserError where a run would be resumed on other data; both are a `data_summary`."""
    for split, now in data.items():
        if (before := stored[split]) != now:
            raise UserError(
                f"run_dir={run_dir} holds a run with other {split} data: {before['images']} images with "
                f"{before['objects']} objects before, {now['images']} with {now['objects']} now; ids, sizes or the "
                "images' numbers of objects differ. Give the data that it began with, or another run_dir"
            )


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested groups by their dotted key."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        k: v
        for key, value in node.items()
        for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()
    }
