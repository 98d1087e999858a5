"""What a configuration says of pretrained weights, written out in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from maskrcnn.engine.initialise import norms_of


def pin_pretrained(config: DictConfig) -> None:
    """Spread ``init.weights=imagenet`` to the backbone parts, and replace ``auto`` by what it stands for.

    So the run's stored config says what ran, and builds the same model without the pretrained file.
    """
    source = config.init.weights if "init" in config else None
    for part in _pretrained_parts(config.get("model")):
        if source == "imagenet":
            part.weights = "imagenet"
        no_stages = "frozen_stages" in part and part.frozen_stages is None
        if part.norm != "auto" and not no_stages:
            continue
        norm, frozen = ("frozen_bn", 2) if part.weights else ("bn", 0)
        if source not in (None, "imagenet") and Path(source).is_file():
            norm, frozen = norms_of(source)  # as the weights were learned
        if part.norm == "auto":
            part.norm = norm
        if no_stages:
            part.frozen_stages = frozen


def drop_pretrained(config: DictConfig) -> None:
    """Forget where the backbone's weights came from: a checkpoint brings its own."""
    for part in _pretrained_parts(config.get("model")):
        part.weights = None


def _pretrained_parts(node: Any) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig):
        if "weights" in node and "norm" in node:
            yield node
        for key in node:
            if isinstance(node._get_node(key), DictConfig):
                yield from _pretrained_parts(node[key])
