"""Settles the settings of a config that depend on pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskrcnn.models import hub


def pin_pretrained(config: DictConfig) -> None:
    """Set ``init.weights=imagenet`` for the backbone parts, and replace ``auto`` by its value.

    The run's stored config then has the used values, and builds the same model without the pretrained file. Settings
    that depend on a file of initial weights are left to `pin_norms`.
    """
    source = config.init.weights if "init" in config else None
    for part in _pretrained_parts(config.get("model")):
        if source == "imagenet":
            part.weights = "imagenet"
        if source in (None, "imagenet"):
            _fill(part, *(("frozen_bn", 2) if part.weights else ("bn", 0)))


def pin_norms(config: DictConfig, stored: Mapping[str, Any] | None) -> None:
    """Replace the ``auto`` that `pin_pretrained` left by the norm that the weights of ``init`` were trained with.

    Args:
        config: changed in place.
        stored: the config of the run that is resumed, which has the values; None for a new run.
    """
    from maskrcnn.training.initialise import norms_of  # lazily, because it imports torch

    for part in _pretrained_parts(config.get("model")):
        if not (part.norm == "auto" or _unknown_stages(part)):
            continue
        if stored is None:
            source = config.init.weights
            _fill(part, *(norms_of(source) if hub.local_path(source).is_file() else ("bn", 0)))
        else:
            before = OmegaConf.select(OmegaConf.create(dict(stored)), str(part._get_full_key(None)))
            if before is not None:
                _fill(part, before.norm, before.get("frozen_stages"))


def _fill(part: DictConfig, norm: str, frozen_stages: int | None) -> None:
    if part.norm == "auto":
        part.norm = norm
    if _unknown_stages(part):
        part.frozen_stages = frozen_stages


def _unknown_stages(part: DictConfig) -> bool:
    return "frozen_stages" in part and part.frozen_stages is None


def drop_pretrained(config: DictConfig) -> None:
    """Remove the origin of the backbone's weights, because a checkpoint has its own weights."""
    for part in _pretrained_parts(config.get("model")):
        part.weights = None


def _pretrained_parts(node: Any) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig):
        if "weights" in node and "norm" in node:
            yield node
        for key in node:
            if isinstance(node._get_node(key), DictConfig):
                yield from _pretrained_parts(node[key])
