"""RoI operators by name: the presets of `maskrcnn_ops`, and files ``roi_op/<name>.yaml`` for custom ones.

The functions import `maskrcnn_ops` lazily, because it imports torch, which takes seconds.
"""

from __future__ import annotations

import inspect
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import files
from maskrcnn.config.check import nearest
from maskrcnn.errors import UserError


def preset_node(name: str) -> dict[str, Any]:
    """The config of a preset with all switches, so that each can be overridden (``roi_op.plus_one=true``)."""
    from maskrcnn_ops import PRESETS, RoIOp

    switches = inspect.signature(RoIOp).parameters.items()
    values = {key: getattr(PRESETS[name], key, parameter.default) for key, parameter in switches}
    return {"_target_": "maskrcnn_ops.RoIOp", **values}


def operator_node(name: str) -> DictConfig:
    """The config of an operator, from a file or a preset. Raises UserError with the nearest names for others."""
    from maskrcnn_ops import PRESETS

    path, options = files.find(f"roi_op/{name}.yaml"), files.options("roi_op")
    if path is None and name not in PRESETS:
        raise UserError(f"no such operator{nearest(name, options)}; there are: {', '.join(options)}")
    node = OmegaConf.create(preset_node(name)) if path is None else OmegaConf.load(path)
    assert isinstance(node, DictConfig)
    return node


def register_presets() -> None:
    """Make the presets options of ``roi_op`` in Hydra, except those with a file of the same name."""
    from maskrcnn_ops import PRESETS

    store = ConfigStore.instance()
    store.repo.pop("roi_op", None)
    for name in PRESETS:
        if files.find(f"roi_op/{name}.yaml") is None:
            store.store(group="roi_op", name=name, node=preset_node(name))
