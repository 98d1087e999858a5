"""The config that a checkpoint stores: plain values that rebuild the model, and that a resumed run must repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset
from maskrcnn.errors import UserError

# These do not change the result of a run, so a resumed run may change them: keys and groups, and keys in any group.
_FREE = (
    "run_dir",
    "device",
    "threads",
    "debug",
    "checkpoint",
    "log",
    "evaluation",
    "accumulate",
    "compile",
    "cuda_graphs",
    "fast_convolutions",
)
_FREE_ANYWHERE = ("num_workers", "on_corrupt_image")
# A resumed run may also change these; each change is logged.
CHANGEABLE = (
    "schedule.steps",
    "schedule.lr",
    "schedule.warmup_steps",
    "schedule.clip_norm",
    "schedule.max_loss",
    "precision",
)
# Paths, which may change unless the value is one of `_NO_PLACES`. `check_same_data` compares the files' content.
_PLACES = (
    "data.root",
    *(f"data.{split}{what}" for split in ("", "train_", "val_") for what in ("annotations", "images")),
    "proposals.train",
    "proposals.val",
    "init.weights",
)
_NO_PLACES = ("ground_truth", "imagenet")


@dataclass(frozen=True)
class Recipe:
    """The settings of a run as plain values.

    Args:
        stored: stored in every checkpoint: nested dictionaries, lists and plain values. ``_target_`` names the class
            or function that a group of arguments belongs to. ``${key}`` refers to another value.
        resolved: the same with references resolved, for config.yaml.
    """

    stored: dict[str, Any]
    resolved: dict[str, Any]


def plain(value: Any) -> Any:
    """Convert a value to dictionaries, lists and plain values.

    Dataclasses and partial functions become ``_target_`` groups. Values without a plain form become their ``repr``, so
    that a resumed run can still be compared.
    """
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, partial):
        return {"_target_": _name(value.func), "_partial_": True, **plain(value.keywords)}
    if is_dataclass(value) and not isinstance(value, type):
        return {"_target_": _name(type(value)), **settings(value)}
    return repr(value)


def settings(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain values."""
    return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def check_same_run(now: dict[str, Any], stored: dict[str, Any], run_dir: Path) -> list[str]:
    """List the settings that a resumed run changes, one line each.

    Args:
        now: `Recipe.stored` of this process.
        stored: that of the checkpoint.
        run_dir: for the message.

    Raises:
        UserError: a changed setting makes it another run.
    """
    before, after = flat(stored), flat(now)
    differing = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    changed = [
        key
        for key in differing
        if key.split(".")[0] not in _FREE and key.split(".")[-1] not in _FREE_ANYWHERE
    ]
    moved = [k for k in _PLACES if before.get(k) not in _NO_PLACES and after.get(k) not in _NO_PLACES]
    named = [key for key in changed if key in (*CHANGEABLE, *moved)]
    if refused := [key for key in changed if key not in named][:10]:
        listed = "\n".join(f"  {key}: {before.get(key)!r} before, {after.get(key)!r} now" for key in refused)
        raise UserError(
            f"run_dir={run_dir} holds a run with other settings:\n{listed}\n"
            "give another run_dir, or repeat the settings to resume it"
        )
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in named]


def data_summary(dataset: Dataset) -> dict[str, Any]:
    """Identify a data set independently of its path: counts, and a digest of ids, sizes and objects."""
    rows = np.column_stack([dataset.image_ids, dataset.sizes, dataset.num_objects])
    by_id = np.ascontiguousarray(rows[np.argsort(dataset.image_ids)], "<i8")
    digest = hashlib.sha256(by_id.tobytes()).hexdigest()[:16]
    return {"images": len(dataset), "objects": int(dataset.num_objects.sum()), "digest": digest}


def check_same_data(
    data: dict[str, dict[str, Any]], stored: dict[str, dict[str, Any]], run_dir: Path
) -> None:
    """Check that a run is resumed on the same data.

    Args:
        data: ``{split: data_summary}`` of this process.
        stored: that of the checkpoint.
        run_dir: for the message.

    Raises:
        UserError: the data differ.
    """
    for split, now in data.items():
        # A validation set may be added when resuming.
        if (before := stored.get(split, now)) != now:
            raise UserError(
                f"run_dir={run_dir} holds a run with other {split} data: {_described(before)} before, "
                f"{_described(now)} now; ids, sizes or the images' numbers of objects differ. Give its original data, "
                "or another run_dir"
            )


def _described(summary: dict[str, Any]) -> str:
    objects = summary["objects"]  # negative if they are not counted in advance
    return f"{summary['images']} images" + (f" with {objects} objects" if objects >= 0 else "")


def check_resumable(
    stored: Mapping[str, Any], now: dict[str, Any], data: dict[str, dict[str, Any]], steps: int, run_dir: Path
) -> None:
    """Compare a checkpoint with the run that resumes it, and print what changes.

    Args:
        stored: the checkpoint.
        now: `Recipe.stored` of this process.
        data: ``{split: data_summary}``.
        steps: number of steps of the complete run.
        run_dir: for the messages.

    Raises:
        UserError: it is another run, or has already done more steps.
    """
    if steps < stored["step"]:
        raise UserError(
            f"run_dir={run_dir} holds step {stored['step']}, beyond schedule.steps={steps}: give "
            f"schedule.steps={stored['step']} to evaluate it as it is, more to train on, or another run_dir"
        )
    changes = check_same_run(now, stored["config"], run_dir)
    check_same_data(data, stored.get("data", {}), run_dir)
    console.print(f"resuming from step {stored['step']} of {steps}")
    for line in changes:
        console.print(f"  {line}", style="yellow")


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested groups to ``{dotted key: value}``. ``prefix`` is put before every key."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        k: v
        for key, value in node.items()
        for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()
    }
