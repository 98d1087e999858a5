"""COCO json from various programs: Roboflow, COCO's own layout, CVAT, Label Studio, or a json next to its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn.data.defects import listed
from maskrcnn.data.folders.folder import COCO, ROBOFLOW, Content, Folder, Part, part_called
from maskrcnn.data.formats.coco_json import load_annotations
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class Coco:
    """COCO json, one file per split.

    The name of the file or its folder contains the split: train, val, valid, test.
    """

    title = "COCO jsons"
    layout = (
        "train/_annotations.coco.json (Roboflow), annotations/instances_train2017.json with train2017/ (COCO, CVAT), "
        "result.json with images/ (Label Studio), train.json with train/"
    )

    def recognises(self, folder: Folder) -> bool:
        return bool(_named(folder)) or any(_is_coco(content) for content in folder.json_samples.values())

    def read(self, folder: Folder) -> dict[str, Part]:
        files: dict[str, list[Path]] = {}
        found = _named(folder) or [path for path in folder.ending(".json") if _is_coco(folder.json(path))]
        for path in found:
            files.setdefault(part_called(path.stem) or folder.part(path), []).append(path)
        for part, paths in files.items():
            if len(paths) > 1:
                raise UserError(
                    f"{folder.root} has {len(paths)} COCO jsons for the split {part!r} ({listed(paths)}): move all but "
                    "one away, or name files and folders with data=custom"
                )
        contents = {part: load_annotations(paths[0]) for part, paths in files.items()}
        root = _root_class(list(contents.values()))
        parts = {}
        for part, content in contents.items():
            images = _images(folder, files[part][0], part, content)
            report = [f"{files[part][0].relative_to(folder.root)} with the images in {images}"]
            if root is not None:
                content = {**content, "categories": [c for c in content["categories"] if c["name"] != root]}
                left_out = f"left out the class {root!r}, which has no object"
                report.append(f"{left_out}: Roboflow's name of the project")
            parts[part] = Part(images, content, report=report)
        return parts


def _is_coco(content: Any) -> bool:
    keys = "images", "categories"
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)


def _named(folder: Folder) -> list[Path]:
    """The files with Roboflow's or COCO's own names, without reading them."""
    jsons = folder.ending(".json")
    named = [path for path in jsons if path.parent.name == "annotations" and path.name.startswith(COCO[0])]
    return named + [path for path in jsons if path.name == ROBOFLOW]


def _images(folder: Folder, path: Path, part: str, content: Content) -> Path:
    """The image folder of a json: the first likely folder with one of the first images, else the root."""
    names = [str(image.get("file_name")) for image in content["images"][:3] if isinstance(image, dict)]
    homes = [home for home in (path.parent, path.parent.parent) if home.is_relative_to(folder.root)]
    inside = (path.stem.removeprefix(COCO[0]), part, f"images/{part}", "images", ".")
    likely = [path.parent, *(home / name for home in homes for name in inside)]
    return next((place for place in likely if any((place / name).is_file() for name in names)), folder.root)


def _root_class(contents: list[Content]) -> str | None:
    """The class that Roboflow creates from the project's name: the supercategory of all others, without objects."""
    used: set[str] = set()
    supers: dict[str, set[str]] = {}
    for content in contents:
        categories = [c for c in content["categories"] if isinstance(c, dict)]
        ids = {entry.get("category_id") for entry in content["annotations"] if isinstance(entry, dict)}
        used |= {str(c.get("name")) for c in categories if c.get("id") in ids}
        for c in categories:
            supers.setdefault(str(c.get("name")), set()).add(str(c.get("supercategory")))
    for name in supers.keys() - used:
        others = set().union(*(found for other, found in supers.items() if other != name))
        if others == {name}:
            return name
    return None
