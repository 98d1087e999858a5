"""New names of the modules and keys of version 0.1.0, so that its checkpoints still load."""

from __future__ import annotations

from typing import Any

_MODULES = {
    "maskrcnn.data.coco": "maskrcnn.data.formats.coco",
    "maskrcnn.data.sbd": "maskrcnn.data.formats.sbd",
    "maskrcnn.data.shapes": "maskrcnn.data.formats.shapes",
    "maskrcnn.data.voc": "maskrcnn.data.formats.voc",
    "maskrcnn.models.backbones": "maskrcnn.models.backbones.resnet",
    "maskrcnn.models.torchvision_backbones": "maskrcnn.models.backbones.torchvision",
    "maskrcnn.models.box_head": "maskrcnn.models.heads.box",
    "maskrcnn.models.mask_head": "maskrcnn.models.heads.mask",
    "maskrcnn.models.keypoint_head": "maskrcnn.models.heads.keypoint",
    "maskrcnn.models.trunks": "maskrcnn.models.heads.trunks",
    "maskrcnn.models.mask_rcnn": "maskrcnn.models.detector",
}
_CLASSES = {
    f"maskrcnn.models.{old}": f"maskrcnn.models.heads.trunks.{old.rpartition('.')[2]}"
    for old in ("heads.box.TwoFCTrunk", "heads.mask.ConvTrunk", "backbones.resnet.Res5Trunk")
}
# Renamed keys by group, each with its new key and value. Both packages give the same metrics.
_KEYS = {"evaluation": {"fast": ("backend", None)}}


def with_present_names(node: Any, group: str = "") -> Any:
    """Rename every ``_target_`` and key of a stored config to its present name.

    Args:
        node: nested dictionaries and lists of a stored config.
        group: the key whose value ``node`` is.
    """
    if isinstance(node, list):
        return [with_present_names(item) for item in node]
    if not isinstance(node, dict):
        return node
    replaced = _KEYS.get(group, {})
    present: dict[str, Any] = {}
    for key, value in node.items():
        if key in replaced:
            name, value = replaced[key]
            present[name] = value
        else:
            present[key] = _present(value) if key == "_target_" else with_present_names(value, key)
    return present


def _present(target: str) -> str:
    module, _, name = str(target).rpartition(".")
    present = f"{_MODULES.get(module, module)}.{name}"
    return _CLASSES.get(present, present)
