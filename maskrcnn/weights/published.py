"""State dicts of other frameworks, recognised by their names, for a model of ours that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from maskrcnn.models.detector import MaskRCNN
from maskrcnn.weights import detectron2, torchvision_names

Framework = Literal["torchvision", "Detectron2"]

# What the published models were trained with, where ours may differ: a part of the model -> its setting.
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
    """Whose detector a state dict with these names is of; None for ours, and for what is not known."""
    if "backbone.body.conv1.weight" in names:
        return "torchvision"
    if any(name.startswith("proposal_generator.rpn_head.") for name in names):
        return "Detectron2"
    return None


def translated(state: Mapping[str, Tensor], model: MaskRCNN) -> tuple[dict[str, Tensor], list[str]]:
    """``state`` of torchvision's or Detectron2's under our names and conventions, for ``model``, and what was done, in
    words: where the model has other settings than the weights were trained with, these are listed.

    Entries that have no place in the model keep their name. A state dict of ours comes back as it is, without words.
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
    """The attribute ``a.b.c`` of the model; None where a part of it is not there, or has no such setting."""
    value: Any = model
    for key in name.split("."):
        value = getattr(value, key, None)
    return value
