"""Uses a timm network as the backbone of any model: ``model.backbone.name=timm/<name>``."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskrcnn.errors import UserError

KEY, PREFIX = "model.backbone.name", "timm/"
_TARGET = "maskrcnn.models.backbones.timm.TimmBackbone"
_RESIDUAL = "maskrcnn.models.backbones.resnet.ResNet"
_SHARED = ("norm", "weights", "frozen_stages", "in_channels")


def is_timm(key: str, value: Any) -> bool:
    """Whether ``key=value`` selects a timm network as the backbone."""
    return key == KEY and isinstance(value, str) and value.startswith(PREFIX)


def put_timm(config: DictConfig, name: str) -> None:
    """Replace the backbone of ``config.model`` by a timm network, and the pixels' mean and deviation by the network's.

    The old backbone's settings of norm, weights, frozen stages, channels and last stride are kept.

    Args:
        config: changed in place.
        name: ``timm/<name>``.

    Raises:
        UserError: the model's heads or strides need a ResNet, the name is unknown, or timm is missing.
    """
    from maskrcnn.models.backbones.timm import pixel_statistics  # lazily, because it imports torch

    model = config.model
    if model.get("backbone") is None:
        raise UserError(f"{KEY}={name}: this model has no part model.backbone")
    _check_replaceable(model, name)
    old = model.backbone
    node = {"_target_": _TARGET, "name": name, **{key: old[key] for key in _SHARED if key in old}}
    node["last_stride"] = old.get("last_stride", 2 ** old.get("last_stage", 5))
    node["options"] = old.get("options")
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
