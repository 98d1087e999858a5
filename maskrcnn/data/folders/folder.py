"""A folder of data as the readers of formats see it: its files, its small jsons, and where an image lies."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from maskrcnn.data.formats.coco_json import load_json
from maskrcnn.data.formats.file_names import longest_match, matching_key
from maskrcnn.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Names of folders and files that stand for a part of a data set; COCO's end with the year.
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
WHOLE = "all"  # the name of the only part where a folder has no parts
# Files that Roboflow and COCO name in their own way; the largest take long to read.
ROBOFLOW = "_annotations.coco.json"
COCO = ("instances_", "person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_")
_SAMPLED = 5  # jsons and xml files of each folder that are looked at to find the format


class Folder:
    """The files below ``root``.

    Args:
        root: an existing folder. Hidden files and folders are left out; links are followed.
        classes: the user's ``data.classes``: names for formats that have none.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None) -> None:
        self.root, self.classes = root, classes
        self.files = sorted(_files(root))

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes (lower case), in order."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    @cached_property
    def images(self) -> list[Path]:
        """The image files, in order."""
        return self.ending(*IMAGES)

    @cached_property
    def json_samples(self) -> list[tuple[Path, Any]]:
        """The first few jsons of each folder, with their content; without those that have COCO's names."""
        return [
            (path, load_json(path))
            for path in self._first(".json")
            if not path.name.startswith((ROBOFLOW, *COCO))
        ]

    @cached_property
    def xml_samples(self) -> list[tuple[Path, ElementTree.Element]]:
        """The first few xml files of each folder, with their roots."""
        return [(path, xml_root(path)) for path in self._first(".xml")]

    def json(self, path: Path) -> Any:
        """The content of a json file. Raises UserError where it is damaged."""
        return next((content for known, content in self.json_samples if known == path), None) or load_json(
            path
        )

    def _first(self, suffix: str) -> list[Path]:
        of_folder: dict[Path, list[Path]] = {}
        for path in self.ending(suffix):
            of_folder.setdefault(path.parent, []).append(path)
        return [path for paths in of_folder.values() for path in paths[:_SAMPLED]]

    def find(self, name: str, near: Path) -> Path | None:
        """The image that an annotation names: as a path from the folder ``near``, else by its last parts.

        None where there is no such file. Raises UserError where several files fit.
        """
        direct = near / name.replace("\\", "/")
        if direct.is_file():
            return direct
        wanted = matching_key(name.replace("\\", "/"))
        found = longest_match(self._by_name.get(wanted[-1], []), wanted)
        if len(found) > 1:
            raise UserError(
                f"{name!r} could be any of {', '.join(found[:3])} in {self.root}; give the images different names"
            )
        return self.root / found[0] if found else None

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        by_name: dict[str, list[str]] = {}
        for path in self.images:
            relative = path.relative_to(self.root).as_posix()
            by_name.setdefault(matching_key(relative)[-1], []).append(relative)
        return by_name

    def part(self, path: Path) -> str:
        """The part that a file belongs to: the first folder on the way to it that is called as one; else `WHOLE`."""
        names = path.relative_to(self.root).parts[:-1]
        return next((part for name in names if (part := part_called(name)) is not None), WHOLE)


def part_called(name: str) -> str | None:
    """The part for a folder's or a file's name: ``val`` for val, valid, val2017, instances_val; None for others."""
    words = re.split(r"[^a-z]+", re.sub(r"20\d\d$", "", name.casefold()))
    found = {PARTS[word] for word in words if word in PARTS}
    return found.pop() if len(found) == 1 else None


def _files(root: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def xml_root(path: Path) -> ElementTree.Element:
    """The root of an xml file. Raises UserError where it is damaged."""
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid xml ({error}); write or download it again") from error


def text_of(path: Path) -> str:
    """The content of a text file in UTF-8. Raises UserError for other encodings."""
    try:
        return path.read_text("utf-8-sig")  # some editors begin it with a mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason}); save it as UTF-8") from error
