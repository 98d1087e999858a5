"""tools/predict.py: detections of images on disk, drawn and as COCO json."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from pycocotools import mask as coco_mask
from rich.progress import track

from maskrcnn import assembly
from maskrcnn import config as configs
from maskrcnn.data.images import Pixels, read_image
from maskrcnn.engine.draw import draw_results
from maskrcnn.engine.evaluate import Result
from maskrcnn.engine.logs import console
from maskrcnn.engine.predict import detect_images
from maskrcnn.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass
class Predict(configs.Common):
    """The keys of configs/predict.yaml."""

    checkpoint: str | None = None
    trust_checkpoint: bool = False
    input: str | None = None
    score_threshold: float = 0.5
    batch_size: int = 4


def main(arguments: Sequence[str]) -> None:
    """Detect in every image that ``input`` names; write overlays and json into the run directory."""
    own, rest = configs.split(arguments, Predict)
    settings = configs.compose_config("predict", own, Predict)
    if settings.checkpoint is None or settings.input is None:
        raise UserError("give checkpoint=FILE and input=<file|folder|glob>")
    paths = find_images(settings.input)
    config, model, _ = assembly.load_trained(
        settings.checkpoint, rest, configs.Train, settings.trust_checkpoint
    )
    device = assembly.open_device(settings.device, settings.threads)
    run_dir = assembly.open_run_dir(settings.run_dir)
    transform = configs.build(config.data.test_transform)
    categories = configs.plain_list(config.categories)
    names = {c["id"]: c["name"] for c in categories}
    images: list[dict[str, Any]] = []
    predictions: list[Result] = []
    batches = _batches(paths, settings.batch_size)
    total = -(-len(paths) // settings.batch_size)
    for batch in track(batches, "predicting", total=total, console=console, disable=not console.is_terminal):
        found = detect_images(model.to(device), [image for _, image in batch], transform, list(names), device)
        for (path, image), results in zip(batch, found, strict=True):
            images.append(
                {
                    "id": len(images) + 1,
                    "file_name": path.name,
                    "height": image.shape[0],
                    "width": image.shape[1],
                }
            )
            for result in results:
                result |= {"image_id": len(images), "file_name": path.name}
            predictions += results
            _write_overlay(run_dir, path, draw_results(image, results, names, settings.score_threshold))
    (run_dir / "predictions.json").write_text(json.dumps(predictions))
    (run_dir / "annotations.json").write_text(json.dumps(as_dataset(images, categories, predictions)))
    console.print(f"{len(images)} images, {len(predictions)} detections: {run_dir}")


def find_images(pattern: str) -> list[Path]:
    """The image files that a file name, a folder or a glob stands for. Raises UserError where there are none."""
    path = Path(pattern)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    elif path.is_file():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
    if not found:
        raise UserError(
            f"input={pattern}: no image found; expected a file, a folder with {', '.join(sorted(IMAGE_SUFFIXES))} "
            "files, or a quoted glob"
        )
    return sorted(found)


def as_dataset(
    images: list[dict[str, Any]], categories: list[dict[str, Any]], predictions: Sequence[Result]
) -> dict[str, Any]:
    """Predictions as a COCO data set: annotations with ids and areas, their scores kept."""
    annotations = []
    for number, result in enumerate(predictions, start=1):
        rle = result.get("segmentation")
        area = float(coco_mask.area(rle)) if rle else result["bbox"][2] * result["bbox"][3]
        annotations.append(
            {
                "id": number,
                "area": area,
                "iscrowd": 0,
                **{k: v for k, v in result.items() if k != "file_name"},
            }
        )
    return {"images": images, "categories": categories, "annotations": annotations}


def _batches(paths: Sequence[Path], size: int) -> Iterator[list[tuple[Path, Pixels]]]:
    for begin in range(0, len(paths), size):
        yield [(path, read_image(path)) for path in paths[begin : begin + size]]


def _write_overlay(run_dir: Path, path: Path, picture: Pixels) -> None:
    target = run_dir / f"{path.stem}.png"
    if not cv2.imwrite(str(target), picture[..., ::-1]):
        raise UserError(f"{target} cannot be written")
