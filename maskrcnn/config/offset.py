"""``roi_op.offset=measured``: the operator places cells at the centres of their measured receptive fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from maskrcnn.config import compose as configs
from maskrcnn.console import console
from maskrcnn.errors import UserError
from maskrcnn.models.receptive import receptive_field


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
