"""Rules for all formats: rectangles, images without annotations, classes, training and validation split."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from maskrcnn.data.defects import listed
from maskrcnn.data.folders.folder import Part, Unlabelled
from maskrcnn.errors import UserError

Rectangles = Literal["boxes", "masks"]


def with_rectangles(part: Part, choice: Rectangles | None, where: str) -> Part:
    """Convert each rectangle to a box or a mask.

    Args:
        part: the split.
        choice: what a rectangle means; None reads boxes if all objects are rectangles.
        where: the split in messages.

    Raises:
        UserError: ``choice`` is None and only some of the objects are rectangles.
    """
    count, others = len(part.rectangles), len(part.content["annotations"]) - len(part.rectangles)
    if not count or choice == "masks":
        return part
    if choice is None and others:
        raise UserError(
            f"{where} has {count} rectangles among {others} outlines: data.rectangles=masks takes a rectangle as the "
            "outline of its object, data.rectangles=boxes as a box whose object has no mask"
        )
    entries = part.content["annotations"]
    annotations = [_as_box(entry) if entry["id"] in part.rectangles else entry for entry in entries]
    note = f"{count} rectangles are read as boxes without masks (data.rectangles=masks makes them masks)"
    return replace(part, content={**part.content, "annotations": annotations}, report=[*part.report, note])


def _as_box(entry: dict[str, Any]) -> dict[str, Any]:
    xs = [x for piece in entry["segmentation"] for x in piece[::2]]
    ys = [y for piece in entry["segmentation"] for y in piece[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {key: value for key, value in entry.items() if key != "segmentation"} | {"bbox": box}


def with_unlabelled(part: Part, choice: Unlabelled | None, where: str) -> Part:
    """Keep images without annotations as background, or drop them.

    Args:
        part: the split.
        choice: what to do; None follows the format.
        where: the split in messages.

    Raises:
        UserError: ``choice`` is None and most images have no annotations.
    """
    count, images = len(part.unlabelled), part.content["images"]
    if not count:
        return part
    if choice is None and 2 * count > len(images):
        names = [image["file_name"] for image in images if image["id"] in part.unlabelled]
        raise UserError(
            f"{where} is incomplete: {count} of its {len(images)} images have no annotations ({listed(names)}); add "
            "the annotation files, or set data.unlabelled=background (they show no object) or data.unlabelled=left_out"
        )
    if (choice or part.unlabelled_means) == "background":
        note = f"{count} images without annotations are read as background (data.unlabelled=left_out leaves them out)"
        return replace(part, report=[*part.report, note])
    note = (
        f"left out {count} images without annotations (data.unlabelled=background reads them as background)"
    )
    kept = _of_images(part, {image["id"] for image in images} - part.unlabelled)
    return replace(kept, report=[*part.report, note])


def check_classes(part: Part, classes: Sequence[str] | None, title: str) -> None:
    """Raise UserError if the user's class names contradict those in the files.

    Args:
        part: the split.
        classes: the user's class names, or None.
        title: name of the format.
    """
    found = [str(category.get("name")) for category in part.content["categories"]]
    if classes is not None and found != list(classes):
        raise UserError(
            f"data.classes=[{','.join(classes)}] is for files without names of classes; {title} names them here: "
            f"{', '.join(found)}; leave data.classes out"
        )


def divided(part: Part, share: float) -> tuple[Part, Part]:
    """Split into training and validation images.

    A hash of the file name decides, so that an image stays in its split when others are added. Roboflow's augmented
    versions of an image (``NAME.rf.HASH.jpg``) stay together. Each split gets at least one image.

    Args:
        part: all images.
        share: share of the validation images.
    """
    places = {image["id"]: _place(image["file_name"]) for image in part.content["images"]}
    if len(set(places.values())) < 2:
        raise UserError(
            f"{part.images} holds a single image, which cannot be divided: set data.val_share=0 to train without "
            "validation"
        )
    border = min(max(share, min(places.values()) * (1 + 1e-9)), max(places.values()))
    chosen = {number for number, place in places.items() if place < border}
    note = (
        f"no validation split: {len(chosen)} of {len(places)} images are validated on, chosen by their names "
        f"(data.val_share={share:g})"
    )
    part = replace(part, report=[*part.report, note])
    return _of_images(part, set(places) - chosen), _of_images(part, chosen)


def _place(file_name: str) -> float:
    """A number from 0 to 1 that only depends on the file name."""
    name = Path(file_name).stem.partition(".rf.")[0]
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def _of_images(part: Part, ids: Collection[int]) -> Part:
    images = [image for image in part.content["images"] if image["id"] in ids]
    annotations = [entry for entry in part.content["annotations"] if entry["image_id"] in ids]
    return replace(part, content={**part.content, "images": images, "annotations": annotations})
