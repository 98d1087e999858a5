"""Reads a file of COCO results for given annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pycocotools.coco import COCO

from maskrcnn.data.formats.coco_fields import number, whole
from maskrcnn.data.formats.coco_json import load_json
from maskrcnn.data.segmentation import check_rle_strings, compressed
from maskrcnn.errors import UserError


def read_results(path: Path, truth: COCO) -> list[dict[str, Any]]:
    """Read results with ids, scores and compressed masks for scoring.

    The image of a result is that of its ``file_name``, or else of its ``image_id``: a number, the same as a string, or
    the stem of the image's file name.

    Args:
        path: the file.
        truth: the annotations.

    Raises:
        UserError: not a list of results; a result without a listed image or category; a file name that contradicts the
            id; a damaged mask, or one of another size than its image.
    """
    content = load_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: predictions are a list of COCO results, not a {type(content).__name__}")
    images = _Images(truth)
    return [
        _read(result, f"{path}, prediction {place}", truth, images) for place, result in enumerate(content)
    ]


class _Images:
    """The images of the annotations by file name, last part and stem; None for names of several images."""

    def __init__(self, truth: COCO) -> None:
        self.names = {int(i): str(image.get("file_name", "")) for i, image in truth.imgs.items()}
        self.by_name: dict[str, int | None] = {}
        for image_id, name in self.names.items():
            path = PurePosixPath(name.replace("\\", "/"))
            for key in {name, path.name, path.stem}:
                self.by_name[key] = None if key in self.by_name else image_id

    def of(self, result: Mapping[str, Any], where: str) -> int:
        """The id of a result's image."""
        name, stated = result.get("file_name"), result.get("image_id")
        found = whole(stated)
        if not isinstance(name, str) or not any(self.names.values()):
            image_id = found if found in self.names else self.by_name.get(str(stated))
            if image_id is None:
                raise UserError(
                    f"{where} has image_id={stated!r}, but the annotations list no such image; are they of the same "
                    "data set?"
                )
            return image_id
        last = PurePosixPath(name.replace("\\", "/")).name
        image_id = self.by_name.get(name, self.by_name.get(last))
        if image_id is not None:
            return image_id
        if found in self.names and PurePosixPath(self.names[found].replace("\\", "/")).name == last:
            return found  # several images have this name
        listed = f", whose image {stated} is {self.names[found]}" if found in self.names else ""
        raise UserError(
            f"{where} is of the file {name}, which is none of the annotations'{listed}; give the annotations of the "
            "images that were predicted, or leave file_name out to go by image_id"
        )


def _read(result: Any, where: str, truth: COCO, images: _Images) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise UserError(f"{where} is a {type(result).__name__}, not a COCO result")
    image_id, category_id = images.of(result, where), whole(result.get("category_id"))
    if category_id not in truth.cats:
        raise UserError(
            f"{where} has category_id={result.get('category_id')!r}, but the annotations list no such category; are "
            "they of the same data set?"
        )
    score = number(result.get("score"))
    if score is None:
        raise UserError(f"{where} has score={result.get('score')!r}; expected a number")
    read = {**result, "image_id": image_id, "category_id": category_id, "score": score}
    if "bbox" in result:
        read["bbox"] = _box(result["bbox"], where)
    if "segmentation" in result:
        image = truth.imgs[image_id]
        read["segmentation"] = _mask(result["segmentation"], image["height"], image["width"], where)
    return read


def _box(value: Any, where: str) -> list[float]:
    numbers = [number(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
    found = [v for v in numbers if v is not None]
    if len(numbers) != 4 or len(found) != 4:
        raise UserError(f"{where} has bbox={value!r}; expected [x, y, width, height]")
    return found


def _mask(value: Any, height: int, width: int, where: str) -> dict[str, Any]:
    try:
        rle = compressed(value, height, width)
        check_rle_strings([rle["counts"]])
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return {**rle, "counts": rle["counts"].decode("ascii")}
