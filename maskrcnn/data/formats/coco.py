"""COCO-format data: the official layout, or any json with a folder of images."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maskrcnn.data.dataset import Dataset, OnCorruptImage
from maskrcnn.data.defects import Defect, Kind, refuse_fatal, summarise
from maskrcnn.data.formats.coco_json import load_annotations, select
from maskrcnn.data.images import few_bits, read_image
from maskrcnn.errors import UserError


class CocoDataset(Dataset):
    """A COCO-format annotation file and its image folder.

    Classes come from the file. Images without objects are kept. Boxes without area, boxes outside their image and
    unreadable polygons are left out and counted in ``report``.

    Args:
        annotations: path of the json.
        images: folder that the json's file names are relative to.
        on_corrupt_image: what the loaders do with an image that cannot be decoded: ``stop`` or ``skip``.
        only_with_keypoints: leave out images without a labelled keypoint.
        image_ids: read only these images; None is all.
        content: content of the json if there is no file. ``annotations`` then only names it in messages.

    Raises:
        UserError: with file, id and remedy, if training would be wrong: a missing or broken file, an annotation of an
            image or category that is not listed.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        on_corrupt_image: OnCorruptImage = "stop",
        only_with_keypoints: bool = False,
        image_ids: Collection[int] | None = None,
        content: dict[str, Any] | None = None,
    ) -> None:
        self.annotations = Path(annotations)
        self.chosen = None if image_ids is None else frozenset(image_ids)
        # Stored as bytes, so that workers share it.
        self._content = None if content is None else pickle.dumps(content)
        folder = Path(images)
        data = load_annotations(self.annotations) if content is None else content
        if not folder.is_dir():
            raise UserError(f"there is no images folder {folder} (for {self.annotations})")
        sound = select(data, folder)
        refuse_fatal(self.annotations, sound.defects)
        if not sound.images:
            raise UserError(f"{self.annotations} lists no image")
        report = summarise(self.annotations, [*sound.defects, *_few_bits(sound.images.values(), folder)])
        records = [r for r in sound.records() if self.chosen is None or r.image_id in self.chosen]
        if only_with_keypoints:
            records = [r for r in records if r.keypoints is not None and (r.keypoints[..., 2] > 0).any()]
        super().__init__(records, sound.categories, folder, on_corrupt_image, report)

    def ground_truth(self) -> dict[str, Any]:
        """The content of the annotation file for scoring, without what was left out."""
        data = load_annotations(self.annotations) if self._content is None else pickle.loads(self._content)
        content = select(data, None).content(data)
        if self.chosen is None:
            return content
        images = [image for image in content["images"] if image["id"] in self.chosen]
        annotations = [a for a in content["annotations"] if a["image_id"] in self.chosen]
        return {**content, "images": images, "annotations": annotations}


def _few_bits(images: Iterable[dict[str, Any]], folder: Path) -> Iterator[Defect]:
    """The defect of 16-bit files that are almost black, if one of the first three images is."""
    for image in islice(images, 3):
        path = folder / image["file_name"]
        with suppress(UserError):  # unreadable images are reported when they are read
            if (largest := few_bits(path, read_image(path))) is not None:
                yield Defect(Kind.FEW_BITS, f"image {image['id']} ({path}, at most {largest})")


@dataclass(frozen=True)
class CocoLayout:
    """COCO 2017 as published.

    Images are in ``root/{train2017,val2017}``, annotations in
    ``root/annotations/{instances,person_keypoints}_{train,val}2017.json``.

    Args:
        root: the folder.
        on_corrupt_image: see `CocoDataset`.
        annotations: which of the files. With keypoints, training uses only images with labelled keypoints.
    """

    root: str | None
    on_corrupt_image: OnCorruptImage = "stop"
    annotations: Literal["instances", "person_keypoints"] = "instances"

    def train(self) -> CocoDataset:
        return self._split("train2017", self.annotations == "person_keypoints")

    def val(self) -> CocoDataset:
        return self._split("val2017")

    def _split(self, split: str, only_with_keypoints: bool = False) -> CocoDataset:
        if self.root is None:
            raise UserError(
                "data=coco needs data.root=DIR, the folder with train2017/, val2017/ and "
                f"annotations/{self.annotations}_{{train,val}}2017.json"
            )
        root = Path(self.root)
        annotations = root / "annotations" / f"{self.annotations}_{split}.json"
        if not annotations.is_file() or not (root / split).is_dir():
            raise UserError(
                f"data.root={root} is not COCO's layout: expected the file {annotations} and the folder "
                f"{root / split}; data=custom takes any other json and folder"
            )
        return CocoDataset(annotations, root / split, self.on_corrupt_image, only_with_keypoints)


@dataclass(frozen=True)
class CustomCoco:
    """A COCO-format json and a folder of images for each split. A split that is not used may be None.

    Args:
        train_annotations: path of the json to train on.
        train_images: its image folder.
        val_annotations: path of the json to validate on.
        val_images: its image folder.
        on_corrupt_image: see `CocoDataset`.
    """

    train_annotations: str | None
    train_images: str | None
    val_annotations: str | None
    val_images: str | None
    on_corrupt_image: OnCorruptImage = "stop"

    def train(self) -> CocoDataset:
        return self._split("train", self.train_annotations, self.train_images)

    def val(self) -> CocoDataset | None:
        """The validation split; None if neither annotations nor images are given."""
        if self.val_annotations is None and self.val_images is None:
            return None
        return self._split("val", self.val_annotations, self.val_images)

    def _split(self, split: str, annotations: str | None, images: str | None) -> CocoDataset:
        if annotations is None:
            raise UserError(f"data=custom needs data.{split}_annotations=a COCO-format json")
        if images is None:
            raise UserError(f"data=custom needs data.{split}_images=the folder with its images")
        return CocoDataset(annotations, images, self.on_corrupt_image)


@dataclass(frozen=True)
class CocoFolds:
    """One json, divided into ``folds`` parts by image: part ``fold`` is validated on, the others are trained on.

    Use it for few images without their own validation split, and for cross-validation. The division only depends on
    the ids of the images.

    Args:
        annotations: path of the json.
        images: its image folder.
        folds: number of parts.
        fold: the part to validate on, 0 .. folds - 1.
        on_corrupt_image: see `CocoDataset`.
    """

    annotations: str | None
    images: str | None
    folds: int = 5
    fold: int = 0
    on_corrupt_image: OnCorruptImage = "stop"

    def train(self) -> CocoDataset:
        return self._part(validated=False)

    def val(self) -> CocoDataset:
        return self._part(validated=True)

    def _part(self, validated: bool) -> CocoDataset:
        if self.annotations is None or self.images is None:
            raise UserError("data=folds needs data.annotations=FILE, a COCO-format json, and data.images=DIR")
        fold, folds = self.fold, self.folds
        if not 0 <= fold < folds:
            raise UserError(f"data.fold={fold}: with data.folds={folds} it is 0 to {folds - 1}")
        data = load_annotations(Path(self.annotations))
        ids = sorted(select({**data, "annotations": []}, None).images)
        if not 2 <= folds <= len(ids):
            raise UserError(f"data.folds={folds}: expected 2 to {len(ids)}, the number of images")
        order = np.random.default_rng(0).permutation(len(ids))
        mine = {ids[place] for place in order[fold::folds]}
        chosen = mine if validated else set(ids) - mine
        return CocoDataset(self.annotations, self.images, self.on_corrupt_image, image_ids=chosen)
