"""Converts a folder of any format to COCO: a json and a folder of images for each split."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskrcnn.data.defects import refuse_fatal, summarise
from maskrcnn.data.folders.protocol import Part
from maskrcnn.data.formats.coco_json import select
from maskrcnn.errors import UserError


def write_coco(parts: dict[str, Part], root: Path, out: Path, link: bool = False) -> Iterator[str]:
    """Write ``out/annotations/instances_PART.json`` and the images ``out/PART/`` of each split.

    Every annotation gets a box and an area; what the reader leaves out is not written. An image keeps its name. If
    several images of a split have the same name, their folders become part of the name.

    Args:
        parts: from `FolderSource.parts`.
        root: the folder that they were read from.
        out: an empty or new folder.
        link: make symbolic links to the images instead of copies.

    Yields:
        A line for each thing that was left out, and for each file that was written.
    """
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"to={out} lies in {root}, which would then hold two formats; give another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"to={out} is not empty; give a new folder, or remove it")
    contents, report = {}, dict[str, None]()
    for name, part in parts.items():
        sound = select(part.content, part.images)
        refuse_fatal(root, sound.defects)
        report |= dict.fromkeys([*part.report, *summarise(root, sound.defects)])
        contents[name] = sound.content(part.content)
    yield from report
    for name, content in contents.items():
        path = out / "annotations" / f"instances_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content["images"] = [
            {**image, "file_name": new}
            for image, new in _placed(content["images"], parts[name].images, out / name, link)
        ]
        path.write_text(json.dumps(content))
        yield f"wrote {path}: {len(content['images'])} images, {len(content['annotations'])} objects"


def _placed(
    images: list[dict[str, Any]], source: Path, target: Path, link: bool
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each image with its new name after writing its file to ``target``."""
    target.mkdir(parents=True)
    counts = Counter(Path(image["file_name"]).name for image in images)
    for image in images:
        path = Path(image["file_name"])
        name = path.name if counts[path.name] == 1 else "_".join(part for part in path.parts if part != "..")
        if link:
            os.symlink((source / path).resolve(), target / name)
        else:
            shutil.copy2(source / path, target / name)
        yield image, name
