"""Masks as images: one per image, whose values are its objects, or one per object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.folders.entries import Entries, Outline, refuse_missing
from maskrcnn.data.folders.folder import Folder, Part
from maskrcnn.data.images import read_values
from maskrcnn.errors import UserError

_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # lossless formats

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Masks:
    """A folder ``masks`` next to the images, or next to their folder ``images``.

    ``masks/NAME.png`` or ``masks/NAME_mask.png`` has the objects of the image NAME: each value except 0 is an object.
    If an image has several files, ``masks/NAME/*.png`` or ``masks/NAME_*.png``, each file is an object. All objects
    have one class: that of ``data.classes``, or ``object``.

    Args:
        values: meaning of a file with several objects. ``objects``: each value except 0 is an object. ``regions``:
            each connected region (eight neighbours) of non-zero values is an object. None refuses files with a single
            value, which can mean both.
    """

    values: Literal["objects", "regions"] | None = None
    title = "masks as images"
    layout = (
        "images/NAME.jpg with masks/NAME.png (a value for each object), masks/NAME/*.png or masks/NAME_*.png"
    )

    def recognises(self, folder: Folder) -> bool:
        return any(path.suffix.lower() in _SUFFIXES and _mask_folder(path, folder) for path in folder.images)

    def read(self, folder: Folder) -> dict[str, Part]:
        if folder.classes is not None and len(folder.classes) != 1:
            raise UserError(f"data.classes={folder.classes}: masks as images have one class; give one name")
        (name,) = folder.classes or ["object"]
        owners = _owners(folder)
        one_each = any(len(masks) > 1 for masks in owners.values())
        if not one_each and self.values is None and all(_count(_values(m)) < 2 for (m,) in owners.values()):
            raise UserError(
                f"{folder.root}: no mask of an image has more than one value besides 0: "
                "data.formats.masks.values=regions makes each connected region an object, "
                "data.formats.masks.values=objects all pixels of a value"
            )
        entries = Entries(folder, [name])
        for file, masks in owners.items():
            arrays = [_values(mask) for mask in masks]
            if one_each:
                _check_single(masks, arrays)
            image = entries.image(file, arrays[0].shape)
            for array in arrays if one_each else _objects(arrays[0], self.values):
                if array.any():
                    entries.add(image, name, Outline.pixels(array, image.size))
                else:
                    entries.leave_out(image, "an empty mask")
        entries.unlabelled([file for file in folder.images if not _mask_folder(file, folder)])
        return entries.parts()


def _mask_folder(path: Path, folder: Folder) -> Path | None:
    """The folder ``masks`` in a file's path."""
    inside = [place for place in path.parents if place.is_relative_to(folder.root) and place != folder.root]
    return next((place for place in inside if place.name.casefold() in ("masks", "mask")), None)


def _owners(folder: Folder) -> dict[Path, list[Path]]:
    """Each image with its masks. Raises UserError for a mask whose image is missing."""
    of_folder: dict[Path, list[Path]] = {}
    for path in folder.images:
        if path.suffix.lower() in _SUFFIXES and (place := _mask_folder(path, folder)):
            of_folder.setdefault(place, []).append(path)
    owners: dict[Path, list[Path]] = {}
    orphans = []
    for place, masks in of_folder.items():
        home = place.parent / "images" if (place.parent / "images").is_dir() else place.parent
        files = (file for file in folder.images if file.is_relative_to(home))
        names = {_name(file, home): file for file in files if not file.is_relative_to(place)}
        for mask in masks:
            owner = _owner(_name(mask, place), names)
            if owner is None:
                orphans.append(f"that of {mask.relative_to(folder.root)}")
            else:
                owners.setdefault(owner, []).append(mask)
    refuse_missing(orphans, folder.root)
    return owners


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _owner(mask: str, images: dict[str, Path]) -> Path | None:
    """The image whose name is the longest prefix of the mask's name."""
    if mask in images:
        return images[mask]
    if len(images) == 1:
        return next(iter(images.values()))
    cuts = [mask[:k] for k in range(len(mask) - 1, 0, -1) if mask[k] in "/_-."]
    return next((images[cut] for cut in cuts if cut in images), None)


def _values(path: Path) -> Pixels:
    """The values ``[H, W]`` as integers; the indices of a palette."""
    _, values = read_values(path)
    if values.ndim == 3 and (values[..., :1] == values[..., :3]).all():
        values = values[..., 0]  # a grey image with three channels
    if values.ndim != 2 or not (values == values.astype(np.int64)).all():
        raise UserError(
            f"the mask {path} is no image of whole numbers ({values.dtype} {list(values.shape)}): save it with "
            "one channel, whose values are the objects"
        )
    return values.astype(np.int64)


def _count(values: Pixels) -> int:
    """Number of values other than 0."""
    return len(np.unique(values[values != 0]))


def _check_single(masks: Sequence[Path], arrays: Sequence[Pixels]) -> None:
    """Raise UserError unless each of an image's masks shows one object."""
    for mask, array in zip(masks, arrays, strict=True):
        if (count := _count(array)) > 1:
            raise UserError(
                f"the mask {mask} has {count} values besides 0, but other images have a file for each object; expected "
                "one or the other in a folder"
            )
        if array.shape != arrays[0].shape:
            raise UserError(f"the masks {masks[0]} and {mask} of one image have different sizes; write again")


def _objects(values: Pixels, meaning: str | None) -> list[Pixels]:
    if meaning == "regions":
        values = cv2.connectedComponents((values != 0).astype(np.uint8), connectivity=8)[1]
    return [values == value for value in np.unique(values) if value]
