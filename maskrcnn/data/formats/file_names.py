"""Finds image files whose names differ from those in the annotations."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from maskrcnn.errors import UserError

_MOST_FILES = 200_000  # largest number of files to list below a folder


class FileFinder:
    """Finds the files in ``folder`` that annotations name.

    A name is tried unchanged, then with Windows' separators, then by its last parts: in any subfolder,
    percent-decoded, in another case or Unicode form, with another extension.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"there is no images folder {folder}")
        self.folder = folder
        self._present = {entry.name for entry in os.scandir(folder)}

    def find(self, name: str) -> list[str]:
        """Paths of the file relative to ``folder``: none, one, or several if it is ambiguous."""
        for known in (name, name.replace("\\", "/")):
            if known in self._present or _is_file(self.folder / known):
                return [known]
        wanted = matching_key(name.replace("\\", "/"))
        found = self._by_name.get(wanted[-1]) or self._by_stem.get(_stem(wanted[-1]), [])
        return longest_match(found, wanted)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return by_name(_below(self.folder))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        by_stem: dict[str, list[str]] = {}
        for name, paths in self._by_name.items():
            by_stem.setdefault(_stem(name), []).extend(paths)
        return by_stem


def by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by the last part of their `matching_key`."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(matching_key(path)[-1], []).append(path)
    return found


def folder_with(name: str, near: Path) -> Path | None:
    """A folder next to or above ``near`` that contains a file of this name, or None."""
    wanted = matching_key(name.replace("\\", "/"))[-1]
    for start in [near.parent, near.parent.parent]:
        for path in _below(start, 20_000):
            if matching_key(path)[-1] == wanted:
                return (start / path).parent
    return None


def longest_match(paths: list[str], wanted: list[str]) -> list[str]:
    """Those of ``paths`` whose last parts agree with most of ``wanted``."""

    def agreement(path: str) -> int:
        parts = matching_key(path)
        pairs = zip(reversed(parts[:-1]), reversed(wanted[:-1]), strict=False)
        return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(wanted)) - 1)

    if len(paths) < 2:
        return paths
    best = max(map(agreement, paths))
    return [path for path in paths if agreement(path) == best]


def _below(folder: Path, most: int = _MOST_FILES) -> list[str]:
    """The files below a folder, relative to it."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        inside = os.path.relpath(place, folder)
        found += [name if inside == "." else f"{inside}/{name}" for name in sorted(files)]
        if len(found) > most:
            break
    return found


def matching_key(path: str) -> list[str]:
    """The parts of a path in a form that is equal for equivalent names."""
    return unicodedata.normalize("NFC", unquote(path)).casefold().split("/")


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or has a null byte
        return False
