"""What a data format must have, so that ``data=folder`` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from maskrcnn.data.folders.folder import Folder

Unlabelled = Literal["background", "left_out"]
Content = dict[str, Any]  # of a COCO json: the lists images, annotations and categories


@dataclass
class Part:
    """A part of a data set in COCO's format.

    Args:
        images: the folder that the file names are relative to.
        content: of a COCO json. It is checked as one that was read from a file.
        rectangles: ids of annotations that were drawn as rectangles and have them as polygons: boxes, or masks.
        unlabelled: ids of images about which the annotations say nothing.
        unlabelled_means: what the format says of them: they show no object, or nobody has annotated them yet.
        report: lines about how the annotations were read, and counts of what was left out.
    """

    images: Path
    content: Content
    rectangles: set[int] = field(default_factory=set)
    unlabelled: set[int] = field(default_factory=set)
    unlabelled_means: Unlabelled = "left_out"
    report: list[str] = field(default_factory=list)


@runtime_checkable
class Format(Protocol):
    """A format of annotations. Built-in ones and those of users are listed in the same place, ``data.formats``."""

    title: str  # as it is printed: "LabelMe"
    layout: str  # the files that make it, for the message about a folder that is of no format

    def recognises(self, folder: Folder, /) -> bool:
        """Whether this format's files lie in the folder."""
        ...

    def read(self, folder: Folder, /) -> dict[str, Part]:
        """The parts ``train``, ``val`` and ``test`` that there are, or ``all`` alone where the folder has no parts.

        Raises UserError for files that are missing or damaged.
        """
        ...
