"""Fills in the settings of a model that depend on its backbone and on pretrained weights.

It imports torch lazily, because that takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskrcnn.errors import UserError
from maskrcnn.models import hub

KEY, TIMM = "model.backbone.name", "timm/"
# Settings that a timm network takes over from the backbone it replaces.
_SHARED = ("norm", "weights", "frozen_stages", "in_channels")


def put_timm(config: DictConfig, name: str) -> None:
    """Replace the backbone of ``config.model`` by a timm network, and the pixels' mean and deviation by the network's.

    The old backbone's settings of norm, weights, frozen stages, channels and last stride are kept.

    Args:
        config: changed in place.
        name: ``timm/<name>``, the value of ``model.backbone.name``.

    Raises:
        UserError: the model's heads or strides need a ResNet, the name is unknown, or timm is missing.
    """
    from maskrcnn.models.backbones.timm import pixel_statistics

    model = config.model
    if model.get("backbone") is None:
        raise UserError(f"{KEY}={name}: this model has no part model.backbone")
    _check_replaceable(model, name)
    old = model.backbone
    node = {
        "_target_": "maskrcnn.models.backbones.timm.TimmBackbone",
        "name": name,
        **{key: old[key] for key in _SHARED if key in old},
        "last_stride": old.get("last_stride", 2 ** old.get("last_stage", 5)),
        "options": old.get("options"),
    }
    OmegaConf.update(config, "model.backbone", node, merge=False)
    model.pixel_mean, model.pixel_std = pixel_statistics(name)


def _check_replaceable(model: DictConfig, name: str) -> None:
    head = model.get("box_head")
    trunk = None if head is None else OmegaConf.to_container(head).get("trunk")  # type: ignore[union-attr]
    if isinstance(trunk, dict) and str(trunk.get("_target_")).endswith("Res5Trunk"):
        raise UserError(
            f"{KEY}={name}: the heads of this model are the res5 of a residual network; take model=r50_c4_fpnhead for "
            "the same map with other heads, or a model with FPN"
        )
    if model.backbone.get("dilated"):
        raise UserError(
            f"{KEY}={name}: this model dilates the res5 of a residual network; take model=r50_c4_fpnhead (stride 16)"
        )


def fill_channels(model: DictConfig, channels: Mapping[int, int] | None) -> None:
    """Replace null in the pyramid's ``in_channels`` and ``out_channels``. All other numbers refer to these.

    Args:
        model: the node of a model, changed in place.
        channels: number of channels of the backbone's maps by stride; None if the backbone does not state it.

    Raises:
        UserError: a number is null and the backbone does not state it.
    """
    pyramid = model.pyramid
    for key in ("in_channels", "out_channels"):
        if key not in pyramid or pyramid[key] is not None:
            continue
        if channels is None:
            raise UserError(
                f"model.pyramid.{key} is null, but the backbone {model.backbone._target_} has no attribute "
                "`channels` (numbers of channels by stride): add it, or set the key"
            )
        pyramid[key] = list(channels.values()) if key == "in_channels" else channels[max(channels)]


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
    from maskrcnn.training.initialise import norms_of

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


def drop_pretrained(config: DictConfig) -> None:
    """Remove the origin of the backbone's weights, because a checkpoint has its own weights."""
    for part in _pretrained_parts(config.get("model")):
        part.weights = None


def _fill(part: DictConfig, norm: str, frozen_stages: int | None) -> None:
    if part.norm == "auto":
        part.norm = norm
    if _unknown_stages(part):
        part.frozen_stages = frozen_stages


def _unknown_stages(part: DictConfig) -> bool:
    return "frozen_stages" in part and part.frozen_stages is None


def _pretrained_parts(node: Any) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig):
        if "weights" in node and "norm" in node:
            yield node
        for key in node:
            if isinstance(node._get_node(key), DictConfig):
                yield from _pretrained_parts(node[key])
