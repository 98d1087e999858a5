"""Finds config files: first in the folder `configs/` of the working directory, then in the package.

The presets of `maskrcnn_ops` are options of ``roi_op`` without files.
"""

from __future__ import annotations

import inspect
import runpy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from maskrcnn.config.check import nearest
from maskrcnn.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package has them in maskrcnn/configs, the repository in configs/.
CONFIG_DIR = next(f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir())


def folders() -> list[Path]:
    """The config folders in search order."""
    own = Path.cwd() / "configs"
    return [own, CONFIG_DIR] if own.is_dir() and own.resolve() != CONFIG_DIR else [CONFIG_DIR]


def find(name: str) -> Path | None:
    """The first file with this name, for example ``roi_op/align.yaml``, or None."""
    return next((path for folder in folders() if (path := folder / name).is_file()), None)


def options(group: str) -> list[str]:
    """The options of a group (``model``, ``roi_op``, ``tables``) in all folders, sorted."""
    names = {path.stem for folder in folders() for path in (folder / group).glob("[!_]*.yaml")}
    return sorted(names | _switches()["PRESETS"].keys() if group == "roi_op" else names)


@cache
def _switches() -> dict[str, Any]:
    """The names in the module `maskrcnn_ops.switches`. Its package is not imported, because it imports torch."""
    package = find_spec("maskrcnn_ops")
    assert package is not None
    assert package.origin is not None
    return runpy.run_path(str(Path(package.origin).with_name("switches.py")))


def preset_node(name: str) -> dict[str, Any]:
    """The config of a preset with all switches, so that each can be overridden (``roi_op.plus_one=true``)."""
    preset = _switches()["PRESETS"][name]
    switches = inspect.signature(_switches()["Switches"]).parameters.items()
    values = {key: getattr(preset, key, parameter.default) for key, parameter in switches}
    return {"_target_": "maskrcnn_ops.RoIOp", **values}


def operator_node(name: str) -> DictConfig:
    """The config of an operator, from a file or a preset. Raises UserError with the nearest names for others."""
    path, names = find(f"roi_op/{name}.yaml"), options("roi_op")
    if path is None and name not in names:
        raise UserError(f"no such operator{nearest(name, names)}; there are: {', '.join(names)}")
    node = OmegaConf.create(preset_node(name)) if path is None else OmegaConf.load(path)
    assert isinstance(node, DictConfig)
    return node


def register_presets() -> None:
    """Make the presets options of ``roi_op`` in Hydra, except those with a file of the same name."""
    store = ConfigStore.instance()
    store.repo.pop("roi_op", None)
    for name in _switches()["PRESETS"]:
        if find(f"roi_op/{name}.yaml") is None:
            store.store(group="roi_op", name=name, node=preset_node(name))


class _OwnFirst(SearchPathPlugin):
    """Makes Hydra search the folders in the same order."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(folders()[:-1]):
            search_path.prepend("maskrcnn", f"file://{folder}")
        search_path.append("maskrcnn", f"file://{CONFIG_DIR}")


Plugins.instance().register(_OwnFirst)
