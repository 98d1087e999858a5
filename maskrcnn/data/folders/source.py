"""``data=folder``: detects the format of a folder and reads it as COCO, or converts it to COCO."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from maskrcnn.data.dataset import OnCorruptImage
from maskrcnn.data.defects import refuse_fatal, summarise
from maskrcnn.data.folders import rules
from maskrcnn.data.folders.coco import Coco
from maskrcnn.data.folders.cvat import Cvat
from maskrcnn.data.folders.folder import WHOLE, Folder, Format, Part, Unlabelled
from maskrcnn.data.folders.label_studio import LabelStudio
from maskrcnn.data.folders.labelme import LabelMe
from maskrcnn.data.folders.masks import Masks
from maskrcnn.data.folders.via import Via
from maskrcnn.data.folders.voc import Voc
from maskrcnn.data.folders.yolo import Yolo
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.formats.coco_json import select
from maskrcnn.data.formats.coco_selection import Entry
from maskrcnn.errors import Fraction, UserError

# The built-in formats, as configs/data/folder.yaml lists them.
FORMATS: dict[str, Format] = {
    "coco": Coco(),
    "yolo": Yolo(),
    "voc": Voc(),
    "labelme": LabelMe(),
    "via": Via(),
    "cvat": Cvat(),
    "label_studio": LabelStudio(),
    "masks": Masks(),
}
_VAL = "val"


@dataclass(frozen=True)
class FolderSource:
    """A folder in any of the known formats, for ``data.source``.

    Args:
        root: the folder.
        formats: formats by name; None is all built-in ones, `FORMATS`.
        format: name of the format; None detects it.
        classes: class names for files without names: YOLO without data.yaml, masks as images.
        rectangles: what a rectangle is: only an object's box, or also its mask. None reads boxes if all objects are
            rectangles, and refuses a mixture.
        unlabelled: images without annotations: ``background`` to train on, or ``left_out``. None follows the format,
            and refuses a split in which most images have none.
        train_split: the split to train on.
        val_split: the split to validate on.
        val_share: share of the training images to validate on if there is no split ``val``; 0 is none.
        on_corrupt_image: see `CocoDataset`.
    """

    root: str | None
    formats: dict[str, Format] | None = None
    format: str | None = None
    classes: list[str] | None = None
    rectangles: rules.Rectangles | None = None
    unlabelled: Unlabelled | None = None
    train_split: str = "train"
    val_split: str = "val"
    val_share: Fraction = 0.2
    on_corrupt_image: OnCorruptImage = "stop"

    def train(self) -> CocoDataset:
        """The split to train on."""
        return self._dataset(self.train_split)

    def val(self) -> CocoDataset | None:
        """The split to validate on; None if the folder has none and ``val_share`` is 0."""
        if self.val_split == _VAL and self.val_share == 0 and _VAL not in self.parts():
            return None
        return self._dataset(self.val_split)

    def parts(self) -> dict[str, Part]:
        """All splits in COCO's format, after all rules."""
        folder = self._folder()
        chosen = _chosen(folder, self.formats or FORMATS, self.format)
        found = _read(chosen, folder)
        if not any(part.content["images"] for part in found.values()):
            raise UserError(f"{folder.root} is {chosen.title} without any image; expected {chosen.layout}")
        if WHOLE in found:
            found = {self.train_split: _whole(found, folder.root)}
        parts = {}
        for name, part in found.items():
            unlabelled = len(part.unlabelled) == len(part.content["images"])
            if name != "test" or not unlabelled:  # test sets are published without annotations
                parts[name] = self._with_rules(part, chosen.title, name)
        if self.val_split == _VAL and _VAL not in parts and self.val_share and self.train_split in parts:
            parts[self.train_split], parts[_VAL] = rules.divided(parts[self.train_split], self.val_share)
        return parts

    def _with_rules(self, part: Part, title: str, name: str) -> Part:
        where = f"data.root={self.root} ({name})"
        rules.check_classes(part, self.classes, title)
        part = rules.with_unlabelled(part, self.unlabelled, where)
        part = rules.with_rectangles(part, self.rectangles, where)
        return replace(part, report=[f"{self.root} is read as {title}", *part.report])

    def _dataset(self, split: str) -> CocoDataset:
        parts = self.parts()
        if split not in parts:
            raise UserError(
                f"data.root={self.root} has no split {split!r}; it has {', '.join(sorted(parts))}: data.train_split= "
                "and data.val_split= select them"
            )
        part = parts[split]
        dataset = CocoDataset(str(self.root), part.images, self.on_corrupt_image, content=part.content)
        dataset.report[:0] = part.report
        return dataset

    def _folder(self) -> Folder:
        if self.root is None:
            raise UserError("data=folder needs data.root=DIR, the folder with images and annotations")
        root = Path(self.root)
        if root.is_file():
            raise UserError(f"data.root={root} is a file: unpack it, and name the folder that it makes")
        if not root.is_dir():
            raise UserError(f"there is no folder data.root={root}")
        folder = Folder(root, self.classes)
        if not folder.files:
            raise UserError(f"the folder data.root={root} is empty; expected images and their annotations")
        return folder


def _chosen(folder: Folder, formats: Mapping[str, Format], name: str | None) -> Format:
    """The format called ``name``, or the only one that recognises the folder."""
    if name is not None and name not in formats:
        raise UserError(f"data.format={name} is unknown; there are {', '.join(formats)}")
    found = [key for key, known in formats.items() if known.recognises(folder)]
    if name is not None:
        if name not in found:
            raise UserError(f"{folder.root} is no {formats[name].title}; expected {formats[name].layout}")
        return formats[name]
    if len(found) > 1:
        raise UserError(
            f"{folder.root} holds several formats, {' and '.join(formats[key].title for key in found)}: move one away, "
            f"or set data.format={' or data.format='.join(found)}"
        )
    if not found:
        layouts = "".join(f"\n  {key}: {known.layout}" for key, known in formats.items())
        raise UserError(
            f"{folder.root} holds no annotations of a known format, but {_seen(folder)}; data.format= can be{layouts}"
        )
    return formats[found[0]]


def _read(chosen: Format, folder: Folder) -> dict[str, Part]:
    """The splits of a folder. Unexpected values also raise UserError."""
    try:
        return chosen.read(folder)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{folder.root} looks like {chosen.title}, but a file of it has a value that cannot be read ({error!r}): "
            "export it again, or give the format that it has by data.format= (debug=true shows the place)"
        ) from error


def _seen(folder: Folder) -> str:
    """The kinds of files in a folder with their counts, the most frequent first."""
    kinds = Counter(path.suffix.lower() or "no suffix" for path in folder.files).most_common(5)
    return ", ".join(f"{count} {'file' if count == 1 else 'files'} {kind}" for kind, count in kinds)


def _whole(parts: dict[str, Part], root: Path) -> Part:
    """The only split of a folder without splits. Raises UserError if there are others."""
    if len(parts) > 1:
        outside = parts[WHOLE].content["images"]
        raise UserError(
            f"{root} has the splits {', '.join(sorted(set(parts) - {WHOLE}))}, and {len(outside)} images outside "
            f"of them ({outside[0]['file_name']}, ...): move these into one of the splits, or away"
        )
    return parts[WHOLE]


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
        content["images"] = list(_placed(content["images"], parts[name].images, out / name, link))
        path.write_text(json.dumps(content))
        yield f"wrote {path}: {len(content['images'])} images, {len(content['annotations'])} objects"


def _placed(images: list[Entry], source: Path, target: Path, link: bool) -> Iterator[Entry]:
    """Yield each image entry with its new name after writing its file to ``target``."""
    target.mkdir(parents=True)
    counts = Counter(Path(image["file_name"]).name for image in images)
    for image in images:
        path = Path(image["file_name"])
        name = path.name if counts[path.name] == 1 else "_".join(part for part in path.parts if part != "..")
        if link:
            os.symlink((source / path).resolve(), target / name)
        else:
            shutil.copy2(source / path, target / name)
        yield {**image, "file_name": name}
