"""Checks COCO results against annotations, and reads them from a file."""

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
    content, images = load_json(path), _Images(truth)
    if isinstance(content, list):
        content = [_converted(result, images, f"{path}: prediction {i}") for i, result in enumerate(content)]
    check_predictions(content, truth, f"{path}: ")
    for place, result in enumerate(content):
        if "segmentation" in result:
            result["segmentation"] = _mask(result, truth, f"{path}: prediction {place}")
    return list(content)


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


def _converted(result: Any, images: _Images, where: str) -> Any:
    """A result with its image's id, and with numbers that were given in another form."""
    if not isinstance(result, dict):
        return result
    read = {**result, "image_id": images.of(result, where)}
    for key, convert in (("category_id", whole), ("score", number)):
        if (found := convert(result.get(key))) is not None:
            read[key] = found
    if isinstance(box := result.get("bbox"), list):
        numbers = [number(v) for v in box]
        read["bbox"] = box if None in numbers or len(box) != 4 else numbers
    return read


def _mask(result: dict[str, Any], truth: COCO, where: str) -> dict[str, Any]:
    image = truth.imgs[result["image_id"]]
    try:
        rle = compressed(result["segmentation"], image["height"], image["width"])
        check_rle_strings([rle["counts"]])
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return {**rle, "counts": rle["counts"].decode("ascii")}


def check_predictions(predictions: Sequence[dict[str, Any]], truth: COCO, where: str = "") -> None:
    """Raise UserError for invalid results, or for images or categories that the annotations do not list.

    Args:
        predictions: COCO results. Their masks and keypoints are not checked.
        truth: annotations.
        where: text before the message, for example the name of a file.
    """
    if not isinstance(predictions, Sequence) or isinstance(predictions, str):
        raise UserError(f"{where}predictions are a list of COCO results, not a {type(predictions).__name__}")
    ids = {"image_id": set(truth.getImgIds()), "category_id": set(truth.getCatIds())}
    for place, prediction in enumerate(predictions):
        if not isinstance(prediction, dict):
            raise UserError(f"{where}prediction {place} is a {type(prediction).__name__}, not a COCO result")
        if words := _defect(prediction, ids):
            raise UserError(f"{where}prediction {place} has {words}")


def _defect(prediction: dict[str, Any], ids: Mapping[str, set[int]]) -> str | None:
    """The defect of a result, except its mask and keypoints."""
    for key, known in ids.items():
        value = prediction.get(key)
        if type(value) is not int or value not in known:
            return (
                f"{key}={value!r}, but the annotations list no such {key.removesuffix('_id')}; "
                "are they of the same data set?"
            )
    score, box = prediction.get("score"), prediction.get("bbox", (0, 0, 0, 0))
    if not _are_numbers([score]):
        return f"score={score!r}; expected a number"
    if not isinstance(box, list | tuple) or len(box) != 4 or not _are_numbers(box):
        return f"bbox={box!r}; expected [x, y, width, height]"
    return None


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(not isinstance(v, str) and number(v) is not None for v in values)
