"""Collects the images and objects of a format as COCO entries."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskrcnn.data.folders.folder import Folder
from maskrcnn.data.folders.outlines import Outline, Size, union
from maskrcnn.data.folders.protocol import Part, Unlabelled
from maskrcnn.data.images import image_size
from maskrcnn.errors import UserError

_SHOWN = 3  # number of files that a message names
_MOST_PIXELS = 2**30  # of an image: OpenCV's limit


@dataclass(frozen=True)
class Image:
    """An image that was added.

    Args:
        part: its split.
        number: its COCO id.
        size: (height, width) in pixels.
    """

    part: str
    number: int
    size: Size


@dataclass
class _Drawn:
    """The annotations of a split, before the classes of all splits are known."""

    images: list[dict[str, Any]] = field(default_factory=list)
    objects: list[tuple[int, str, Outline]] = field(default_factory=list)
    unlabelled: set[int] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)


class Entries:
    """The images and objects of a folder, by split.

    Args:
        folder: file names are relative to its root.
        classes: class names in the order of their category ids; None takes the names of all objects in alphabetical
            order.
        unlabelled_means: see `Part`.
    """

    def __init__(
        self, folder: Folder, classes: Sequence[str] | None = None, unlabelled_means: Unlabelled = "left_out"
    ) -> None:
        self.folder, self.classes, self.unlabelled_means = folder, classes, unlabelled_means
        self.missing: list[str] = []  # images that annotations name but the folder does not contain
        self.remarks: list[str] = []  # lines for the report of each part
        self._parts: dict[str, _Drawn] = {}
        self._files: set[Path] = set()

    def image(
        self, file: Path, size: Size | None = None, part: str | None = None, labelled: bool = True
    ) -> Image:
        """Add an image file.

        Args:
            file: its path.
            size: (height, width) that its annotations are for; None reads it from the file.
            part: its split; None derives it from the folders in its path.
            labelled: whether there are annotations about it, even if they say that it shows no object.
        """
        part = self.folder.part(file) if part is None else part
        drawn = self._parts.setdefault(part, _Drawn())
        height, width = size or image_size(file)
        if not 0 < height * width <= _MOST_PIXELS:
            raise UserError(
                f"the annotations of {file} say {height} x {width} (height x width); export them again"
            )
        name = Path(os.path.relpath(file, self.folder.root)).as_posix()
        number = len(drawn.images) + 1
        drawn.images.append({"id": number, "file_name": name, "height": height, "width": width})
        if not labelled:
            drawn.unlabelled.add(number)
        self._files.add(file)
        return Image(part, number, (height, width))

    def named(self, name: str, near: Path, size: Size | None = None, part: str | None = None) -> Image | None:
        """Add the image that an annotation file names, see `Folder.find`.

        Args:
            name: name or path in the annotation file.
            near: folder that the path is relative to.
            size: (height, width) that its annotations are for; None reads it from the file.
            part: its split; None derives it from the folders in its path.

        Returns:
            The image, or None if the file is missing.
        """
        file = self.folder.find(name, near)
        if file is None:
            self.missing.append(name)
            return None
        return self.image(file, size, part)

    def unlabelled(self, files: Sequence[Path]) -> None:
        """Add the images that no annotation mentions."""
        for file in files:
            if file not in self._files:
                self.image(file, labelled=False)

    def add(self, image: Image, name: str, *outlines: Outline) -> None:
        """Add an object.

        Args:
            image: its image.
            name: name of its class.
            outlines: its outline, or several for an object in pieces.
        """
        self._parts[image.part].objects.append((image.number, name, union(outlines, image.size)))

    def leave_out(self, image: Image, what: str) -> None:
        """Count something that is not read.

        Args:
            image: its image.
            what: description for the message, for example ``a line, which has no area``.
        """
        self._parts[image.part].left_out[what] += 1

    def parts(self) -> dict[str, Part]:
        """The splits that were added. Raises UserError if images are missing."""
        refuse_missing(self.missing, self.folder.root)
        found = sorted({name for drawn in self._parts.values() for _, name, _ in drawn.objects})
        numbers = {name: number for number, name in enumerate(self.classes or found, 1)}
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        return {name: self._part(drawn, numbers, categories) for name, drawn in self._parts.items()}

    def _part(self, drawn: _Drawn, numbers: dict[str, int], categories: list[dict[str, Any]]) -> Part:
        annotations = [
            {
                "id": k,
                "image_id": image_id,
                "category_id": numbers[name],
                "iscrowd": 0,
                "segmentation": outline.segmentation,
            }
            for k, (image_id, name, outline) in enumerate(drawn.objects, 1)
        ]
        rectangles = {k for k, (_, _, outline) in enumerate(drawn.objects, 1) if outline.rectangle}
        content = {"images": drawn.images, "annotations": annotations, "categories": categories}
        report = [*self.remarks, *(f"left out {count} x {what}" for what, count in drawn.left_out.items())]
        return Part(self.folder.root, content, rectangles, drawn.unlabelled, self.unlabelled_means, report)


def refuse_missing(names: Sequence[str], root: Path) -> None:
    """Raise UserError for missing images that annotations name."""
    if names:
        raise UserError(
            f"{root} is incomplete: {len(names)} images that the annotations name are missing ({listed(names)}); "
            "add them, or remove their annotations"
        )


def listed(names: Sequence[Any]) -> str:
    """The first few names, with dots if there are more."""
    return ", ".join(map(str, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
