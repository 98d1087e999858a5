"""Finds config files: first in the folder `configs/` of the working directory, then in the package."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

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
    """The options of a group (``model``, ``roi_op``, ``tables``) in all folders, sorted.

    The presets of `maskrcnn_ops` are options of ``roi_op`` without files.
    """
    names = {path.stem for folder in folders() for path in (folder / group).glob("[!_]*.yaml")}
    if group == "roi_op":
        from maskrcnn_ops import PRESETS  # lazily, because it imports torch, which other groups do not need

        names |= PRESETS.keys()
    return sorted(names)


class _OwnFirst(SearchPathPlugin):
    """Makes Hydra search the folders in the same order."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(folders()[:-1]):
            search_path.prepend("maskrcnn", f"file://{folder}")
        search_path.append("maskrcnn", f"file://{CONFIG_DIR}")


Plugins.instance().register(_OwnFirst)
