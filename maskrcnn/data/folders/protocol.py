"""The interface of data formats for ``data=folder``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from maskrcnn.data.folders.folder import Folder

Unlabelled = Literal["background", "left_out"]
Content = dict[str, Any]  # content of a COCO json: the lists images, annotations and categories


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
