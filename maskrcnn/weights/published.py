"""Converts state dicts of other frameworks, recognised by their names, for an existing model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from maskrcnn.models.detector import MaskRCNN
from maskrcnn.weights import detectron2, torchvision_names

Framework = Literal["torchvision", "Detectron2"]

# Settings of the published models that ours may differ in: part of the model -> value.
_SETTINGS: dict[Framework, dict[str, Any]] = {
    "torchvision": {
        "rpn.anchors.offset": 0.0,
        "rpn.anchors.rounded": True,
        "rpn.anchors.spacing": "map",
        "box_head.pooler.operator.offset": 0.0,
        "mask_head.pooler.operator.offset": 0.0,
    },
    "Detectron2": {
        "rpn.anchors.offset": 0.0,
        "backbone.stride_in_1x1": True,
        "backbone.dilate_first": True,
        "box_head.pooler.operator.offset": 0.5,
        "box_head.pooler.operator.sampling_ratio": 0,
        "mask_head.pooler.operator.offset": 0.5,
        "mask_head.pooler.operator.sampling_ratio": 0,
    },
}


def framework(names: Mapping[str, Any]) -> Framework | None:
    """The framework of a detector's state dict by its names; None for ours and for unknown ones."""
    if "backbone.body.conv1.weight" in names:
        return "torchvision"
    if any(name.startswith("proposal_generator.rpn_head.") for name in names):
        return "Detectron2"
    return None


def translated(state: Mapping[str, Tensor], model: MaskRCNN) -> tuple[dict[str, Tensor], list[str]]:
    """Convert a state dict of torchvision or Detectron2 to our names and conventions.

    Args:
        state: the state dict. Entries without a place in the model keep their names. Our own state dicts are returned
            unchanged.
        model: the model that it is for.

    Returns:
        The state dict, and lines that describe the conversion, with the settings in which the model differs from the
        published one.
    """
    source = framework(state)
    if source is None:
        return dict(state), []
    if source == "torchvision":
        found = torchvision_names.to_ours(state, model.state_dict())
    else:
        found = detectron2.to_ours(state, model)
    words = [f"the names are {source}'s; converted to this model's names and order of classes"]
    others = [
        f"  {name} is {value!r}, {source}'s models have {wanted!r}"
        for name, wanted in _SETTINGS[source].items()
        if (value := _setting(model, name)) is not None and value != wanted
    ]
    if others:
        words += ["settings that differ from those the weights were trained with:", *others]
    return found, words


def _setting(model: MaskRCNN, name: str) -> Any:
    """The attribute ``a.b.c`` of the model; None if it does not exist."""
    value: Any = model
    for key in name.split("."):
        value = getattr(value, key, None)
    return value
