"""COCO-format data: the official layout, or any json beside a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from maskrcnn.data.coco_json import load_annotations, select, summarise
from maskrcnn.data.dataset import Dataset, OnCorruptImage
from maskrcnn.errors import UserError


class CocoDataset(Dataset):
    """A COCO-format annotation file and the folder its images lie in.

    annotations: path of the json. images: folder that the json's file names are relative to.
    on_corrupt_image: what the loaders do about an image that cannot be decoded, "stop" or "skip".
    only_with_keypoints: leave out images without a labelled keypoint.

    Classes come from the file. Images without objects are kept; boxes of no size, boxes outside of their
    image and unreadable polygons are passed over and counted in ``report``. Raises UserError, naming file,
    id and remedy, for what would make training wrong: a missing or broken file, an annotation of an image
    or category that is not listed.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        on_corrupt_image: OnCorruptImage = "stop",
        only_with_keypoints: bool = False,
    ) -> None:
        self.annotations = Path(annotations)
        folder = Path(images)
        data = load_annotations(self.annotations)
        if not folder.is_dir():
            raise UserError(f"there is no images folder {folder} (for {self.annotations})")
        sound = select(data, folder)
        if fatal := summarise(self.annotations, (d for d in sound.defects if d.fatal)):
            raise UserError("\n".join(fatal))
        if not sound.images:
            raise UserError(f"{self.annotations} lists no image")
        report = summarise(self.annotations, sound.defects)
        records = sound.records()
        if only_with_keypoints:
            records = [r for r in records if r.keypoints is not None and (r.keypoints[..., 2] > 0).any()]
        super().__init__(records, sound.categories, folder, on_corrupt_image, report)

    def ground_truth(self) -> dict[str, Any]:
        """The annotation file's content, for scoring."""
        return load_annotations(self.annotations)


@dataclass(frozen=True)
class CocoLayout:
    """COCO 2017 as published: ``root/{train2017,val2017}`` and
    ``root/annotations/{instances,person_keypoints}_{train,val}2017.json``.

    annotations: which of the files. With the keypoints, training is on the images that show some.
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
    """Any COCO-format json with its folder of images, one pair for each split; a split not used may be left
    out.
    """

    train_annotations: str | None
    train_images: str | None
    val_annotations: str | None
    val_images: str | None
    on_corrupt_image: OnCorruptImage = "stop"

    def train(self) -> CocoDataset:
        return self._split("train", self.train_annotations, self.train_images)

    def val(self) -> CocoDataset:
        return self._split("val", self.val_annotations, self.val_images)

    def _split(self, split: str, annotations: str | None, images: str | None) -> CocoDataset:
        for key, value, what in (
            ("annotations", annotations, "a COCO-format json"),
            ("images", images, "the folder with its images"),
        ):
            if value is None:
                raise UserError(f"data=custom needs data.{split}_{key}={what}")
        return CocoDataset(str(annotations), str(images), self.on_corrupt_image)
