"""YOLO: a text file for each image, with a line for each object: its class and a box, or the corners of its outline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskrcnn.data.defects import listed
from maskrcnn.data.folders.entries import Entries, Image, Outline
from maskrcnn.data.folders.folder import IMAGES, PARTS, Folder, Part, lines_of, text_of
from maskrcnn.errors import UserError

_NAMES = ("classes.txt", "obj.names")  # files with the class names, one per line
_MARGIN = 1e-3  # by which rounded coordinates may extend beyond the image, relative to its size


@dataclass(frozen=True)
class Yolo:
    """YOLO's boxes and  The classes are those of data.yaml or classes.txt, else of ``data.classes``."""

    title = "YOLO labels"
    layout = "data.yaml with names, train and val; images/NAME.jpg and labels/NAME.txt"

    def recognises(self, folder: Folder) -> bool:
        return bool(_settings(folder)) or any(_is_label(path) for path in _labels(folder)[:5])

    def read(self, folder: Folder) -> dict[str, Part]:
        place, settings = _only(_settings(folder), folder.root)
        listed_names = [lines_of(path) for path in folder.files if path.name in _NAMES]
        classes = _names(settings.get("names")) or next(iter(listed_names), []) or folder.classes
        if not classes:
            raise UserError(
                f"{folder.root} has YOLO labels, but neither data.yaml nor classes.txt says what their class numbers "
                "mean: set data.classes=[first,second,...] in the order of the numbers, from 0 on"
            )
        entries = Entries(folder, classes, unlabelled_means="background")
        images, lengths = list(_images(folder, place, settings)), set[int]()
        for part, file in images:
            label = _label_of(file)
            image = entries.image(file, part=part, labelled=label.is_file())
            if label.is_file():
                lengths |= set(_add_objects(entries, image, label, classes))
        if lengths == {8}:
            entries.remarks += [
                "every outline has four corners: oriented boxes are read as masks of that shape"
            ]
        known = {_label_of(file) for file in [*folder.images, *(file for _, file in images)]}
        entries.missing += [f"that of {path}" for path in _labels(folder) if path not in known]
        return entries.parts()


def _settings(folder: Folder) -> dict[Path, dict[str, Any]]:
    """The files like data.yaml with their content."""
    found = {}
    for path in folder.ending(".yaml", ".yml"):
        try:
            content = yaml.safe_load(text_of(path))
        except yaml.YAMLError as error:
            raise UserError(f"{path} cannot be read as YAML ({error}); write or download it again") from error
        if isinstance(content, dict) and "names" in content and set(PARTS) & set(content):
            found[path] = content
    return found


def _only(settings: dict[Path, dict[str, Any]], root: Path) -> tuple[Path | None, dict[str, Any]]:
    if len(settings) > 1:
        raise UserError(f"{root} has several files like data.yaml ({listed(list(settings))}): leave one")
    for path, content in settings.items():
        if "kpt_shape" in content:
            raise UserError(f"{path} describes keypoints (kpt_shape), which COCO jsons have: export those")
        return path, content
    return None, {}


def _names(value: Any) -> list[str]:
    """Names as a list, or by their numbers from 0."""
    if isinstance(value, dict):
        if sorted(value) != list(range(len(value))):
            raise UserError(f"data.yaml numbers its names {listed(sorted(value))}; expected 0, 1, 2, ...")
        value = [value[number] for number in range(len(value))]
    return [str(name) for name in value] if isinstance(value, list) else []


def _labels(folder: Folder) -> list[Path]:
    """The text files in a folder ``labels``, or next to an image of the same name."""
    images = {path.with_suffix("") for path in folder.images}
    texts = [path for path in folder.ending(".txt") if path.name not in _NAMES]
    return [p for p in texts if "labels" in p.relative_to(folder.root).parts or p.with_suffix("") in images]


def _is_label(path: Path) -> bool:
    """Whether a text file only has numbers, at least five per line."""
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    try:
        return all(len([float(word) for word in line]) >= 5 for line in lines)
    except ValueError:
        return False


def _images(folder: Folder, place: Path | None, settings: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield each image with its split, from data.yaml or from the folders in its path."""
    if place is None:
        yield from ((folder.part(path), path) for path in folder.images)
        return
    for key, part in PARTS.items():
        given = settings.get(key) or []
        for value in [given] if isinstance(given, str) else given:
            where = _located(str(value), place, settings.get("path"))
            if where is None and part != "test":  # exports name a test split even if they have none
                raise UserError(
                    f"{place} says {key}: {value}, but there is no such folder or list of files; add it, or remove the "
                    "line"
                )
            yield from ((part, path) for path in ([] if where is None else _files_of(where)))


def _located(value: str, place: Path, base: Any) -> Path | None:
    """A path of data.yaml: relative to its ``path``, or its longest tail that exists next to data.yaml."""
    parts = Path(value.replace("\\", "/")).parts
    tails = [Path(*parts[k:]) for k in range(len(parts))]
    places = [place.parent / str(base or "") / value, *(place.parent / tail for tail in tails)]
    return next((found for found in places if found.exists()), None)


def _files_of(where: Path) -> Iterable[Path]:
    if where.is_dir():
        return sorted(path for path in where.rglob("*") if path.suffix.lower() in IMAGES)
    lines = lines_of(where)
    found = [_located(line, where, None) for line in lines]
    if None in found:
        raise UserError(f"{where} lists {lines[found.index(None)]}, which is missing; add it or remove it")
    return [path for path in found if path is not None]


def _label_of(image: Path) -> Path:
    """The label file of an image.

    ``labels`` replaces the last ``images`` in the path, else the file is next to the image.
    """
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _add_objects(entries: Entries, image: Image, label: Path, classes: Sequence[str]) -> Iterator[int]:
    """Enter the objects of a label; how many numbers each has after its class."""
    for number, line in enumerate(text_of(label).splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, *values = (float(word) for word in line.split())
            if kind not in range(len(classes)):
                raise ValueError(
                    f"class {kind:g}, but there are {len(classes)}, numbered from 0 on; add its name, or remove the "
                    "line"
                )
            entries.add(image, classes[int(kind)], _outline(values, *image.size))
            yield len(values)
        except ValueError as error:
            raise UserError(f"{label}, line {number}: {error}") from error


def _outline(values: Sequence[float], height: int, width: int) -> Outline:
    """x, y, width and height of a box, or x, y of each corner; all in shares of the image."""
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{len(values)} numbers after the class; expected x, y, width, height, or x, y of three corners or more"
        )
    if not -_MARGIN <= min(values) <= max(values) <= 1 + _MARGIN:
        raise ValueError(
            f"{min(values):g} to {max(values):g}, but coordinates are shares of the image, 0 to 1; "
            "divide pixels by its width and height"
        )
    if len(values) == 4:
        x, y, w, h = (value * side for value, side in zip(values, (width, height) * 2, strict=True))
        return Outline.rectangle(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return Outline.polygon([(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)])
