"""A generated data set of textured shapes with exact masks, written to disk in COCO format."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskrcnn.data.dataset import OnCorruptImage
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.formats.shapes_drawing import NAMES, Picture, draw, landmarks
from maskrcnn.data.keypoints import to_coco
from maskrcnn.data.masks import encode
from maskrcnn.errors import UserError

# Part of every folder's name, so that a new version of the drawing does not read old pictures.
DRAWING_VERSION = 1
_SPLITS = ("train", "val")
# Keypoints of a category. The sigmas (of object keypoint similarity, in units of the square
# root of the object's area) are about those of the shoulders of COCO's person.
_KEYPOINTS: dict[str, Any] = {
    "keypoints": ["centre", "left", "top", "right", "bottom"],
    "skeleton": [[1, 2], [1, 3], [1, 4], [1, 5]],
    "sigmas": [0.08] * 5,
}


@dataclass(frozen=True)
class Shapes:
    """Generates two splits under ``root`` on first use. The images only depend on the arguments.

    Args:
        root: folder for the generated data. Every set of arguments gets its own folder in it.
        num_train: number of training images.
        num_val: number of validation images.
        image_size: side of the square images in pixels.
        min_objects: smallest number of objects per image; the number is uniform.
        max_objects: largest number of objects per image.
        min_radius: smallest circumradius in pixels; the radius is uniform.
        max_radius: largest circumradius in pixels.
        num_classes: use the first 1..6 of circle, square, triangle, star, hexagon, cross.
        seed: seed of everything random.
        keypoints: every object has its centre and its leftmost, topmost, rightmost and lowest corner as COCO
            keypoints. Those covered by another object have visibility 1.
        names: use these shapes instead of the first ``num_classes``.
        on_corrupt_image: see `CocoDataset`.
    """

    root: str | None
    num_train: int = 2000
    num_val: int = 300
    image_size: int = 192
    min_objects: int = 2
    max_objects: int = 6
    min_radius: float = 8  # an integer, because the folder's name depends on the notation
    max_radius: float = 36
    num_classes: int = 4
    seed: int = 0
    keypoints: bool = False
    names: Sequence[str] | None = None
    on_corrupt_image: OnCorruptImage = "stop"

    def __post_init__(self) -> None:
        names = ", ".join(NAMES)
        rules = {
            "data=shapes needs data.root=DIR, a folder for the generated images": self.root is not None,
            "num_train and num_val must be at least 1": min(self.num_train, self.num_val) >= 1,
            "0 <= min_objects <= max_objects must hold": 0 <= self.min_objects <= self.max_objects,
            f"num_classes must be 1..{len(NAMES)} ({names})": 1 <= self.num_classes <= len(NAMES),
            f"names must be some of {names}, not {self.names}": self.names is None
            or (bool(self.names) and set(self.names) <= set(NAMES)),
            "2 <= min_radius <= max_radius <= image_size / 2 must hold": (
                2 <= self.min_radius <= self.max_radius <= self.image_size / 2
            ),
        }
        if wrong := next((words for words, valid in rules.items() if not valid), None):
            raise UserError(f"the shapes data set cannot be drawn: {wrong}")

    def train(self) -> CocoDataset:
        return self._split("train")

    def val(self) -> CocoDataset:
        return self._split("val")

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments that the pictures depend on."""
        drawn = {k: v for k, v in asdict(self).items() if k not in ("root", "on_corrupt_image")}
        for name in ("keypoints", "names"):
            if not drawn[name]:
                del drawn[name]  # keep the folders of sets that are older than these arguments
        return {**drawn, "drawing_version": DRAWING_VERSION}

    @property
    def kinds(self) -> list[int]:
        """The shapes to draw, by label, as indices of `NAMES`."""
        return list(range(self.num_classes)) if self.names is None else [NAMES.index(n) for n in self.names]

    @property
    def folder(self) -> Path:
        """The folder of this set of arguments."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode()).hexdigest()
        return Path(str(self.root)) / f"{self.image_size}px_seed{self.seed}_{digest[:10]}"

    def _split(self, split: str) -> CocoDataset:
        folder = self.folder / split
        if not folder.is_dir():
            self._generate(split, folder)
        return CocoDataset(folder / "annotations.json", folder / "images", self.on_corrupt_image)

    def _generate(self, split: str, folder: Path) -> None:
        """Write to a temporary folder and rename it, so that an incomplete split is never used."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder.parent))
        except OSError as error:
            raise UserError(f"data.root={self.root}: cannot write generated data there: {error}") from error
        try:
            self._write(split, work)
            os.rename(work, folder)
        except OSError:
            # Another process (a rank, or another run) was first. Its files are the same.
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _write(self, split: str, folder: Path) -> None:
        (folder / "images").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, picture in enumerate(self.pictures(split), start=1):
            name = f"{image_id:06d}.png"
            path, pixels = str(folder / "images" / name), picture.pixels[..., ::-1]
            cv2.imwrite(path, pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            size = {"height": self.image_size, "width": self.image_size}
            images.append({"id": image_id, "file_name": name, **size})
            for place, (label, mask) in enumerate(zip(picture.labels, picture.masks, strict=True)):
                annotations.append(_annotation(len(annotations) + 1, image_id, label + 1, mask))
                if self.keypoints:
                    annotations[-1] |= _keypoints(picture, place)
        known = _KEYPOINTS if self.keypoints else {}
        categories = [{"id": k, "name": NAMES[kind], **known} for k, kind in enumerate(self.kinds, 1)]
        data = {"info": self.parameters, "images": images, "annotations": annotations}
        (folder / "annotations.json").write_text(json.dumps({**data, "categories": categories}))

    def pictures(self, split: str) -> Iterator[Picture]:
        """Draw the images of "train" or "val" one by one."""
        for index in range(self.num_train if split == "train" else self.num_val):
            # Each image has its own random stream, so the first images do not depend on their total number.
            rng = np.random.Generator(np.random.PCG64([self.seed, _SPLITS.index(split), index]))
            number = int(rng.integers(self.min_objects, self.max_objects + 1))
            yield draw(rng, self.image_size, number, (self.min_radius, self.max_radius), self.kinds)


def _keypoints(picture: Picture, place: int) -> dict[str, Any]:
    """COCO's keypoints of an object. Visibility is 2, or 1 behind a later object."""
    size = len(picture.pixels)
    before = np.any([np.zeros((size, size), bool), *picture.masks[place + 1 :]], axis=0)
    points = landmarks(picture.shapes[place])
    x, y = points.astype(int).clip(0, size - 1).T
    visibility = np.where(before[y, x], 1, 2)
    numbers = to_coco(np.concatenate([points, visibility[:, None]], axis=1))
    return {"keypoints": [round(number, 3) for number in numbers], "num_keypoints": len(points)}


def _annotation(number: int, image_id: int, category_id: int, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": encode(mask),
    }
