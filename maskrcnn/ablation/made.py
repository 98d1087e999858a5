"""The report's lists of settings (what was trained) and provenance (machine, time, commit)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.summary import Row
from maskrcnn.training.recipe import flat

# Keys of a run's config by topic. Missing keys, and keys that are null or false, are left out.
_KEYS = {
    "backbone": (
        *("backbone._target_", "arch", "backbone.name", "norm", "frozen_stages", "last_stage"),
        *("last_stride", "dilated"),
    ),
    "pyramid": ("pyramid._target_", "pyramid.out_channels"),
    "box head": ("box_head.pooler.output_size", "box_head.trunk._target_", "box_head.trunk.dim"),
    "mask head": (
        *("mask_head.pooler.output_size", "mask_head.trunk._target_", "mask_head.trunk.num_convs"),
        *("mask_head.trunk.dim", "mask_head.loss"),
    ),
    "regions per image": ("sampler.num_samples", "sampler.positive_fraction", "sampler.iou"),
    "training": (
        *("schedule.steps", "schedule.batch_size", "schedule.optimizer", "schedule.lr", "schedule.decay"),
        *("schedule.warmup_steps", "schedule.weight_decay"),
    ),
    "data": (
        *("source._target_", "num_train", "num_val", "image_size", "source.short_side", "data.short_side"),
        *("data.max_size", "horizontal_flip", "vertical_flip", "scale_jitter", "crop"),
    ),
    "inference": ("score_threshold", "nms_iou", "num_detections", "evaluation.max_dets"),
}
# Settings of a single run and its machine. They may differ within a row.
_OF_A_RUN = (
    *("seed", "run_dir", "device", "threads", "debug", "data.num_workers"),
    *("checkpoint.", "log.", "categories"),
)


def settings(table: Table, rows: Sequence[Row]) -> list[str]:
    """List the settings of the runs by topic.

    Args:
        table: the table.
        rows: its rows.

    Returns:
        One line per topic. A setting that differs between runs has all its values.
    """
    records = [record for row in rows for record in row.records]
    configs = [flat(record["manifest"]["config"]) for record in records]
    lines = []
    for topic, keys in _KEYS.items():
        found = [text for key in keys if (text := _setting(configs, key)) is not None]
        if found:
            lines.append(f"{topic}: {', '.join(found)}")
    images = sorted({len(record["per_image"]["ids"]) for record in records})
    return [
        *lines,
        f"proposals: {_proposals(table)}",
        f"validation images: {' or '.join(map(str, images))}",
        f"first run: tools/train.py {' '.join(records[0]['overrides'])}, with these proposals",
    ]


def _setting(configs: Sequence[dict[str, object]], key: str) -> str | None:
    """``steps 300``, or ``steps 200 / 300`` if runs differ. None if no run has the setting."""
    found: dict[str, None] = {}
    for config in configs:
        for name, value in config.items():
            if f".{name}".endswith(f".{key}") and value is not None and value is not False:
                found[value.split(".")[-1] if isinstance(value, str) else json.dumps(value)] = None
    return f"{key.removesuffix('._target_').split('.')[-1]} {' / '.join(found)}" if found else None


def _proposals(table: Table) -> str:
    if table.proposals is None:
        return "from the model's own RPN, trained jointly"
    if isinstance(table.proposals, str):
        return "ground-truth boxes"
    start = "; all runs start from its backbone" if table.start_from_proposals else ""
    return f"precomputed with one RPN that is trained separately ({' '.join(table.proposals)}){start}"


def provenance(table: Table, rows: Sequence[Row]) -> list[str]:
    """List time, memory, machines, versions and commits of the runs, and unintended differences between runs.

    Args:
        table: the table.
        rows: its rows.
    """
    manifests = [record["manifest"] for row in rows for record in row.records]
    minutes = [m["seconds"] / 60 for m in manifests]
    commits = Counter(m["commit"] for m in manifests)
    made = ", ".join(f"{commit} ({count} runs)" for commit, count in sorted(commits.items()))
    changed = " (+: with uncommitted changes)" if any("+" in commit for commit in commits) else ""
    versions = sorted({f"torch {m['versions']['torch']}" for m in manifests})
    return [
        f"{len(minutes)} runs, {sum(minutes):.0f} minutes in total, {min(minutes):.1f} to {max(minutes):.1f} minutes "
        f"each (runs may share the machine), peak memory {max(m['peak_memory_mib'] for m in manifests)} MiB",
        f"machine: {'; '.join(sorted({m['machine'] for m in manifests}))}; {', '.join(versions)}",
        f"commit: {made}{changed}; manifest.json has the config and versions of every run",
        *(_shared(manifests) if isinstance(table.proposals, list) else []),
        *_uneven(rows),
    ]


def _uneven(rows: Sequence[Row]) -> list[str]:
    """Settings other than the seed that differ within a row, for example defaults that changed between commits."""
    found: dict[str, None] = {}
    for row in (r for r in rows if len(r.records) > 1):
        configs = [flat(record["manifest"]["config"]) for record in row.records]
        for key in sorted(set().union(*configs)):
            values = {json.dumps(config[key]) if key in config else "missing" for config in configs}
            if len(values) > 1 and not key.startswith(_OF_A_RUN):
                found[f"{key} ({' or '.join(sorted(values))})"] = None
    return [f"runs of one row differ in more than their seed: {', '.join(found)}"] if found else []


def _shared(manifests: Sequence[Record]) -> list[str]:
    """Whether all runs used the same proposals and starting weights, as far as their records say so."""
    known = Counter(m["shared"] for m in manifests if "shared" in m)
    unknown = len(manifests) - known.total()
    if not known:
        return [
            f"the records of the {unknown} runs do not say which proposals and starting weights were used"
        ]
    older = f"; the records of {unknown} runs do not say it" if unknown else ""
    if len(known) == 1:
        return [f"one set of proposals and starting weights: {next(iter(known))}{older}"]
    counts = ", ".join(f"{name} ({count} runs)" for name, count in sorted(known.items()))
    return [f"{len(known)} sets of proposals and starting weights, not one: {counts}{older}"]
