"""Classes that configs of version 0.1.0 name by an earlier module, so that its checkpoints still load."""

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


def with_present_names(node: Any) -> Any:
    """A stored config as plain values, with every ``_target_`` by its present name.

    Args:
        node: nested dictionaries and lists of a stored config.
    """
    if isinstance(node, list):
        return [with_present_names(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _present(value) if key == "_target_" else with_present_names(value)
        for key, value in node.items()
    }


def _present(target: str) -> str:
    module, _, name = str(target).rpartition(".")
    return f"{_MODULES.get(module, module)}.{name}"
