"""Finds config files: in the folder `configs/` of the working directory first, then in the package's own."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package holds them in maskrcnn/configs, the repository in configs/.
CONFIG_DIR = next(f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir())


def folders() -> list[Path]:
    """The config folders in the order in which they are searched."""
    own = Path.cwd() / "configs"
    return [own, CONFIG_DIR] if own.is_dir() and own.resolve() != CONFIG_DIR else [CONFIG_DIR]


def find(name: str) -> Path | None:
    """The first file called ``name``, for example ``roi_op/align.yaml``, or None."""
    return next((path for folder in folders() if (path := folder / name).is_file()), None)


def options(group: str) -> list[str]:
    """The names that a group (``model``, ``roi_op``, ``tables``) has in any of the folders, sorted.

    The presets of `maskrcnn_ops` are options of ``roi_op`` without files.
    """
    names = {path.stem for folder in folders() for path in (folder / group).glob("[!_]*.yaml")}
    if group == "roi_op":
        from maskrcnn_ops import PRESETS  # imports torch, which other groups do without

        names |= PRESETS.keys()
    return sorted(names)


class _OwnFirst(SearchPathPlugin):
    """Lets Hydra search the folders in the same order."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(folders()[:-1]):
            search_path.prepend("maskrcnn", f"file://{folder}")
        search_path.append("maskrcnn", f"file://{CONFIG_DIR}")


Plugins.instance().register(_OwnFirst)
