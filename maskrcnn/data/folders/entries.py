"""Images and objects of a format as COCO entries. Polygons stay polygons, other shapes become run lengths."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.data.defects import listed
from maskrcnn.data.folders.folder import Folder, Part, Unlabelled
from maskrcnn.data.images import image_size
from maskrcnn.data.masks import encode
from maskrcnn.data.segmentation import compressed
from maskrcnn.errors import UserError

_MOST_PIXELS = 2**30  # of an image: OpenCV's limit
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Outline:
    """A shape in an image.

    Args:
        segmentation: COCO's polygons or run lengths.
        is_rectangle: whether it was drawn as a rectangle.
    """

    segmentation: Any
    is_rectangle: bool = False

    @staticmethod
    def polygon(points: Sequence[Sequence[float]]) -> Outline:
        """A polygon from its corners (x, y). Raises ValueError if they are not pairs."""
        return Outline([[float(value) for x, y in points for value in (x, y)]])

    @staticmethod
    def rectangle(x1: float, y1: float, x2: float, y2: float) -> Outline:
        """A rectangle from two opposite corners, in pixels."""
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
        return Outline([[x1, y1, x2, y1, x2, y2, x1, y2]], is_rectangle=True)

    @staticmethod
    def ellipse(x: float, y: float, rx: float, ry: float, size: Size, degrees: float = 0) -> Outline:
        """The pixels whose centres lie inside an ellipse.

        Args:
            x: centre in pixels.
            y: centre in pixels.
            rx: half axis in pixels.
            ry: half axis in pixels.
            size: (height, width) of the image.
            degrees: rotation, clockwise as seen on the screen.
        """
        across, down = np.meshgrid(np.arange(size[1]) + 0.5 - x, np.arange(size[0]) + 0.5 - y)
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        u, v = cos * across + sin * down, cos * down - sin * across
        return Outline(encode((u * ry) ** 2 + (v * rx) ** 2 <= (rx * ry) ** 2))

    @staticmethod
    def pixels(mask: npt.NDArray[Any], size: Size, left: int = 0, top: int = 0) -> Outline:
        """The non-zero pixels of an array, cropped at the border of the image.

        Args:
            mask: ``[h, w]``.
            size: (height, width) of the image.
            left: column of the image in which the array begins.
            top: row of the image in which the array begins.
        """
        whole = np.zeros(size, np.bool_)
        x1, y1 = max(left, 0), max(top, 0)
        inside = mask[y1 - top : size[0] - top, x1 - left : size[1] - left] != 0
        whole[y1 : y1 + inside.shape[0], x1 : x1 + inside.shape[1]] = inside
        return Outline(encode(whole))

    def turned(self, degrees: float, x: float, y: float) -> Outline:
        """A rectangle rotated clockwise, as seen on the screen.

        Args:
            degrees: the angle.
            x: centre of the rotation in pixels.
            y: centre of the rotation in pixels.
        """
        if degrees % 360 == 0:
            return self
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        (corners,) = self.segmentation
        pairs = [(px - x, py - y) for px, py in zip(corners[::2], corners[1::2], strict=True)]
        turned_pairs = [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in pairs]
        return replace(self, segmentation=Outline.polygon(turned_pairs).segmentation)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Convert the errors of unexpected values to UserError. ``what`` names the shape in the message."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, cv2.error) as error:
        raise UserError(f"{what} cannot be read ({error!r}); draw it again") from error


def union(first: Outline, second: Outline, size: Size) -> Outline:
    """One object from two pieces in an image of ``size`` (height, width)."""
    pieces = [first.segmentation, second.segmentation]
    if all(isinstance(piece, list) for piece in pieces):
        return Outline([*pieces[0], *pieces[1]], first.is_rectangle and second.is_rectangle)
    merged = coco_mask.merge([compressed(piece, *size) for piece in pieces])
    return Outline({"size": list(size), "counts": merged["counts"].decode("ascii")})


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
    objects: dict[tuple[int, str, object], Outline] = field(default_factory=dict)  # by image, class and group
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
                f"the annotations of {file} say {height} x {width} (height x width); export again"
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

    def add(self, image: Image, name: str, outline: Outline, group: object = None) -> None:
        """Add an object.

        Args:
            image: its image.
            name: name of its class.
            outline: its outline.
            group: outlines of the same class and group in an image are pieces of one object. None is an object of its
                own.
        """
        objects = self._parts[image.part].objects
        key = image.number, name, ("alone", len(objects)) if group is None else group
        objects[key] = union(objects[key], outline, image.size) if key in objects else outline

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
        annotations: list[dict[str, Any]] = []
        for (image_id, name, _), outline in drawn.objects.items():
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": numbers[name]}
            annotations.append({**ids, "iscrowd": 0, "segmentation": outline.segmentation})
        rectangles = {k for k, outline in enumerate(drawn.objects.values(), 1) if outline.is_rectangle}
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
