"""What was trained, on what and for how long: a table's settings in a reader's words."""

from __future__ import annotations

import json
from collections.abc import Sequence

from maskrcnn.ablation.document import Block, Heading, Items, Paragraph
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.summary import Row
from maskrcnn.config.build import flat

# The keys of a run's config by what they say; one that a run has not, or that is null or false, is left out.
_KEYS = {
    "backbone": ("backbone._target_", "arch", "norm", "frozen_stages", "last_stage", "dilated"),
    "pyramid": ("pyramid._target_", "pyramid.out_channels"),
    "box head": ("box_head.pooler.output_size", "box_head.trunk._target_", "box_head.trunk.dim"),
    "mask head": (
        *("mask_head.pooler.output_size", "mask_head.trunk._target_", "mask_head.trunk.num_convs"),
        *("mask_head.trunk.dim", "mask_head.loss"),
    ),
    "regions an image": ("sampler.num_samples", "sampler.positive_fraction", "sampler.iou"),
    "training": (
        *("schedule.steps", "schedule.batch_size", "schedule.optimizer", "schedule.lr", "schedule.decay"),
        *("schedule.warmup_steps", "schedule.weight_decay"),
    ),
    "data": (
        *("source._target_", "num_train", "num_val", "image_size", "source.short_side", "data.short_side"),
        *("data.max_size", "horizontal_flip", "vertical_flip", "scale_jitter", "crop"),
    ),
    "test": ("score_threshold", "nms_iou", "num_detections", "evaluation.max_dets"),
}


def settings(table: Table, rows: Sequence[Row]) -> list[Block]:
    """The settings that matter, each with all values that the runs have, and the command of the first run."""
    records = [record for row in rows for record in row.records]
    configs = [flat(record["manifest"]["config"]) for record in records]
    lines = []
    for name, keys in _KEYS.items():
        said = [words for key in keys if (words := _said(configs, key)) is not None]
        if said:
            lines.append(f"{name}: {', '.join(said)}")
    lines.append(f"proposals: {_proposals(table)}")
    images = sorted({len(record["per_image"]["ids"]) for record in records})
    lines.append(f"images tested on: {' or '.join(map(str, images))}")
    text = (
        "Where runs differ, all values are listed; the whole config of each is in manifest.json. "
        f"The first run is `tools/train.py {' '.join(records[0]['overrides'])}` with the proposals below."
    )
    return [Heading("What was trained"), Paragraph(text), Items(lines)]


def _said(configs: Sequence[dict[str, object]], key: str) -> str | None:
    """``steps 300``; the values of all runs, in the order found. None where no run has one."""
    found: dict[str, None] = {}
    for config in configs:
        for name, value in config.items():
            if f".{name}".endswith(f".{key}") and value is not None and value is not False:
                found[_short(value)] = None
    if not found:
        return None
    name = key.removesuffix("._target_").split(".")[-1]
    return f"{name} {' / '.join(found)}"


def _short(value: object) -> str:
    """A class by its name, all else as it stands in the config."""
    if isinstance(value, str):
        return value.split(".")[-1]
    return json.dumps(value)


def _proposals(table: Table) -> str:
    if table.proposals is None:
        return "of the network's own RPN, trained along"
    if isinstance(table.proposals, str):
        return "the boxes of the ground truth"
    start = ", whose backbone all runs start from" if table.start_from_proposals else ""
    return f"stored, of one RPN trained apart ({' '.join(table.proposals)}){start}"
