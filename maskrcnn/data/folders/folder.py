"""The interface of data formats for ``data=folder``: the folder that they read, and the splits that they return."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from maskrcnn.data.formats.coco_json import load_json
from maskrcnn.data.formats.file_names import by_name, longest_match, matching_key
from maskrcnn.data.formats.voc_xml import xml_root
from maskrcnn.errors import UserError

Unlabelled = Literal["background", "left_out"]
Content = dict[str, Any]  # content of a COCO json: the lists images, annotations and categories

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Names of folders and files that stand for a split; COCO's end with the year.
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
WHOLE = "all"  # the name of the only split of a folder without splits
# Names of Roboflow's and COCO's files. The largest take long to read.
ROBOFLOW = "_annotations.coco.json"
COCO = ("instances_", "person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_")
_SAMPLED = 5  # number of json and xml files per folder that are read to detect the format


class Folder:
    """The files below a folder.

    Args:
        root: an existing folder. Hidden files and folders are ignored; links are followed.
        classes: the user's ``data.classes``: names for formats without class names.
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
    def json_samples(self) -> dict[Path, Any]:
        """The contents of the first few json files of each folder, without those that have COCO's names."""
        sampled = (path for path in self._first(".json") if not path.name.startswith((ROBOFLOW, *COCO)))
        return {path: load_json(path) for path in sampled}

    @cached_property
    def xml_samples(self) -> list[ElementTree.Element]:
        """The root elements of the first few xml files of each folder."""
        return [xml_root(path) for path in self._first(".xml")]

    def json(self, path: Path) -> Any:
        """The content of a json file. Raises UserError if it is damaged."""
        return self.json_samples.get(path) or load_json(path)

    def _first(self, suffix: str) -> list[Path]:
        of_folder: dict[Path, list[Path]] = {}
        for path in self.ending(suffix):
            of_folder.setdefault(path.parent, []).append(path)
        return [path for paths in of_folder.values() for path in paths[:_SAMPLED]]

    def find(self, name: str, near: Path) -> Path | None:
        """Find the image that an annotation names.

        Args:
            name: a path relative to ``near``. If there is no such file, the last parts of the path are compared.
            near: the folder of the annotation.

        Returns:
            The path, or None if there is no such file.

        Raises:
            UserError: several files match.
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
        return by_name(path.relative_to(self.root).as_posix() for path in self.images)

    def part(self, path: Path) -> str:
        """The split of a file: the first folder in its path that is named like one, else `WHOLE`."""
        names = path.relative_to(self.root).parts[:-1]
        return next((part for name in names if (part := part_called(name)) is not None), WHOLE)


@dataclass
class Part:
    """A split of a data set in COCO's format.

    Args:
        images: the folder that the file names are relative to.
        content: content of a COCO json. It is checked like one that was read from a file.
        rectangles: ids of annotations that were drawn as rectangles. Their segmentation is a polygon.
        unlabelled: ids of images without annotations.
        unlabelled_means: what the format means by such images: background, or not annotated yet (left out).
        report: lines about what was left out, with counts.
    """

    images: Path
    content: Content
    rectangles: set[int] = field(default_factory=set)
    unlabelled: set[int] = field(default_factory=set)
    unlabelled_means: Unlabelled = "left_out"
    report: list[str] = field(default_factory=list)


@runtime_checkable
class Format(Protocol):
    """A format of annotations. Built-in and custom formats are listed in ``data.formats``.

    Attributes:
        title: the name in messages, for example ``LabelMe``.
        layout: the files of the format, for the message about a folder of unknown format.
    """

    title: str
    layout: str

    def recognises(self, folder: Folder, /) -> bool:
        """Whether the folder contains files of this format."""
        ...

    def read(self, folder: Folder, /) -> dict[str, Part]:
        """Read the splits ``train``, ``val`` and ``test``, or only ``all`` if the folder has no splits.

        Raises:
            UserError: files are missing or damaged.
        """
        ...


def part_called(name: str) -> str | None:
    """The split for a folder or file name: ``val`` for val, valid, val2017, instances_val; None for others."""
    words = re.split(r"[^a-z]+", re.sub(r"20\d\d$", "", name.casefold()))
    found = {PARTS[word] for word in words if word in PARTS}
    return found.pop() if len(found) == 1 else None


def _files(root: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a cyclic link
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def text_of(path: Path) -> str:
    """The content of a UTF-8 text file. Raises UserError for other encodings."""
    try:
        return path.read_text("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason}); save it as UTF-8") from error


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]
