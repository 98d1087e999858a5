"""Writes the outputs of `maskrcnn predict` while it runs: drawn pictures or a drawn video, COCO json, PNG masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import cv2
from pycocotools import mask as coco_mask

from maskrcnn.data.masks import outlines
from maskrcnn.data.segmentation import decode
from maskrcnn.errors import UserError
from maskrcnn.prediction.detections import ImageDetections, Result
from maskrcnn.prediction.draw import Picture, draw_results, skeletons
from maskrcnn.prediction.inputs import Frame


class JsonList:
    """A json list in a file, written entry by entry, so that the results of a long video need no memory.

    Args:
        path: the file.
        before: text before the list.
        after: text after the list.
    """

    def __init__(self, path: Path, before: str = "", after: str = "") -> None:
        self._file: IO[str] = path.open("w")
        self._after, self._empty = after, True
        self._file.write(f"{before}[")

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry."""
        self._file.write(("" if self._empty else ",") + "\n" + json.dumps(entry))
        self._empty = False

    def close(self, after: str = "") -> None:
        """End the list and write ``after``."""
        self._file.write(f"]{after}")
        self._file.close()


class Outputs:
    """Writes detections to a folder. As a context manager, it completes the files when the run is interrupted.

    Args:
        folder: the folder.
        categories: ``id`` and ``name`` by label.
        score_threshold: smallest score to draw, and to write as a PNG mask. The json has all detections.
        masks: write ``masks/<picture>/<number>_<class>.png``, one per detection, 255 inside the object.
        video_rate: frames per second of the drawn video; None writes pictures.
        polygons: write the masks of annotations.json as polygons.
    """

    def __init__(
        self,
        folder: Path,
        categories: Sequence[dict[str, Any]],
        score_threshold: float,
        masks: bool,
        video_rate: float | None,
        polygons: bool = False,
    ) -> None:
        self.polygons = polygons
        self.folder, self.score_threshold, self.masks = folder, score_threshold, masks
        self.video_rate = video_rate
        self.category_ids = [int(category["id"]) for category in categories]
        self.names = {int(category["id"]): str(category["name"]) for category in categories}
        self.skeletons = skeletons(categories)
        self.predictions = JsonList(folder / "predictions.json")
        before = f'{{"categories": {json.dumps(list(categories))}, "annotations": '
        self.annotations = JsonList(folder / "annotations.json", before)
        self.images: list[dict[str, Any]] = []
        self.num_detections = 0
        self._written: set[Path] = set()
        self._video: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.predictions.close()
        self.annotations.close(f', "images": {json.dumps(self.images)}}}')
        if self._video is not None:
            self._video.release()

    def add(self, frame: Frame, found: ImageDetections) -> None:
        """Write a picture with its detections.

        Args:
            frame: the picture and its origin.
            found: its detections, in pixels of the picture.
        """
        height, width = found.size
        number = len(self.images) + 1
        where = {} if frame.number is None else {"frame": frame.number}
        self.images.append(
            {"id": number, "file_name": frame.file_name, "height": height, "width": width, **where}
        )
        results = found.to_coco(number, self.category_ids)
        for result in results:
            self.num_detections += 1
            self.predictions.add({**result, "file_name": frame.file_name, **where})
            self.annotations.add(as_annotation(result, self.num_detections, self.polygons))
        drawn = draw_results(frame.image, results, self.names, self.score_threshold, self.skeletons)
        if frame.number is None:
            place = self._place(frame.file_name)
            self._write(place, drawn)
            stem = place.relative_to(self.folder).with_suffix("")
        else:
            self._write_frame(frame.file_name, drawn)
            stem = Path(f"{frame.number:06d}")
        if self.masks:
            self._write_masks(stem, found)

    def _place(self, name: str) -> Path:
        """Path of the drawn picture of ``name``: ``a/b.png`` for ``a/b.jpg``, or ``a/b.jpg.png`` if that is taken."""
        path = (self.folder / name).with_suffix(".png")
        if path in self._written:
            path = self.folder / f"{name}.png"
        self._written.add(path)
        return path

    def _write_frame(self, name: str, drawn: Picture) -> None:
        height, width = drawn.shape[:2]
        path = self.folder / f"{Path(name).stem}.mp4"
        if self._video is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(path), code, self.video_rate or 25.0, (width, height))
        if not self._video.isOpened():
            raise UserError(f"{path} cannot be written: OpenCV has no encoder for it here")
        self._video.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))

    def _write_masks(self, stem: Path, found: ImageDetections) -> None:
        if found.masks is None:
            raise UserError("masks=true: the model has no mask head; leave masks out")
        for index in range(len(found)):
            if found.scores[index] < self.score_threshold:
                continue
            name = self.names[self.category_ids[int(found.labels[index])]].replace("/", "_")
            path = self.folder / "masks" / stem / f"{index:03d}_{name}.png"
            self._write(path, found.mask(index).astype("uint8") * 255)

    def _write(self, path: Path, picture: Picture) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture):
            raise UserError(f"{path} cannot be written")


def as_annotation(result: Result, number: int, polygons: bool = False) -> dict[str, Any]:
    """Convert a COCO result to an annotation with id and area. It keeps its score.

    Args:
        result: with its mask as RLE, if it has one.
        number: the id.
        polygons: write the mask as polygons, see `outlines`.
    """
    rle = result.get("segmentation")
    area = float(coco_mask.area(rle)) if rle else result["bbox"][2] * result["bbox"][3]
    annotation = {"id": number, "area": area, "iscrowd": 0, **result}
    if rle and polygons:
        bitmap = decode(rle, *rle["size"])
        annotation["segmentation"] = [] if bitmap is None else outlines(bitmap)
    return annotation
