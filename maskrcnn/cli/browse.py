"""Write a page that shows a data set or predictions.

Usage: maskrcnn browse run=DIR | annotations=FILE images=DIR [key=value ...]

Examples:
  maskrcnn browse run=runs/a run_dir=runs/a/gallery                   a run's predictions and the ground truth
  maskrcnn browse annotations=train.json images=train/                a data set
  maskrcnn browse annotations=val.json images=val/ predictions=predictions.json score_threshold=0.3
  maskrcnn browse data=shapes split=train num_images=50
  maskrcnn browse data=shapes augmented=3 num_images=20 data.train_transform.augmentations=strong

Writes index.html and its pictures. The page opens in a browser without a network or server. It sorts by the number of
errors (missed, background, localisation, ...), by the number of objects or by name, and filters by class and name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from omegaconf import DictConfig
from rich.progress import track

from maskrcnn.config import compose as configs
from maskrcnn.config.data import drop_augmentations, open_data
from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.images import CorruptImageError
from maskrcnn.errors import Positive, UserError
from maskrcnn.evaluation import diagnosis as errors
from maskrcnn.evaluation.coco import by_image_id, load_ground_truth
from maskrcnn.evaluation.metrics import kinds_of
from maskrcnn.evaluation.results import read_results
from maskrcnn.prediction.draw import (
    Picture,
    as_annotations,
    draw_results,
    side_by_side,
    skeletons,
    to_width,
    visible,
)
from maskrcnn.prediction.gallery import Card, to_page
from maskrcnn.training.session import open_run_dir

_WRONG = [kind for kind in errors.KINDS if kind != "correct"]


@dataclass
class Browse(configs.Common):
    """Keys of ``maskrcnn browse``. Without run or annotations, every other key is one of ``maskrcnn train``.

    Args:
        run: a run directory: shows its validation set and its predictions.
        annotations: COCO-format annotations instead of a run.
        images: the folder of their images.
        predictions: COCO results.
        split: ``val`` or ``train``.
        score_threshold: smallest score of predictions to draw and count.
        num_images: show only the first images; None is all.
        width: width of each picture in pixels.
        augmented: draw each training image as training sees it in this many epochs; needs ``data=`` or ``run``.
    """

    run: str | None = None
    annotations: str | None = None
    images: str | None = None
    predictions: str | None = None
    split: str = "val"
    score_threshold: float = 0.5
    num_images: int | None = 200
    width: int = 480
    augmented: Positive | None = None


def main(arguments: Sequence[str]) -> None:
    """Draw every image, count its errors, and write index.html and the pictures next to it."""
    settings, rest = configs.compose_command("browse", arguments, Browse)
    config = _config(settings, rest)
    if settings.augmented is not None:
        _browse_augmented(settings, config)
        return
    dataset = open_data(config, settings.split)
    source = settings.predictions
    if source is None and settings.run is not None and settings.split == "val":
        source = str(Path(settings.run) / "predictions.json")
    truth = dataset.ground_truth()
    predictions = None if source is None else read_results(Path(source), load_ground_truth(truth))
    folder = open_run_dir(settings.run_dir)
    (folder / "pictures").mkdir(exist_ok=True)
    cards = _cards(dataset, truth, predictions, settings, folder)
    what = f"{settings.run or settings.annotations or settings.split}, {len(cards)} images"
    compared = (
        "" if predictions is None else f"; ground truth | {source}, scores from {settings.score_threshold:g}"
    )
    _write(folder, what + compared, cards, "objects" if predictions is None else "errors")


def _write(folder: Path, title: str, cards: list[Card], sort_by: str) -> None:
    page = folder / "index.html"
    page.write_text(to_page(title, cards, sort_by))
    console.print(f"{len(cards)} images: {page}")


def _config(settings: DictConfig, rest: Sequence[str]) -> DictConfig:
    """The config of the data to show: annotations with a folder of images, a run, or any data=... of the configs."""
    if settings.split not in ("train", "val"):
        raise UserError(f"split={settings.split}: there are train and val")
    if (settings.annotations is None) != (settings.images is None):
        raise UserError("annotations=FILE (COCO format) and images=DIR belong together")
    if settings.annotations is not None:
        files = {"annotations": settings.annotations, "images": settings.images}
        custom = [f"data.{settings.split}_{key}={path}" for key, path in files.items()]
        return configs.compose_config("train", ["data=custom", *custom, *rest])
    if settings.run is None:
        return configs.compose_config("train", rest)
    path = Path(settings.run) / "config.yaml"
    if not path.is_file():
        raise UserError(f"run={settings.run} is no run directory of tools/train.py: there is no {path}")
    config = configs.read_config(path)
    if settings.augmented is None:
        drop_augmentations(config)
    configs.check_trusted(config.data, str(path), remedy="")
    return configs.override_config(config, rest)


def _browse_augmented(settings: DictConfig, config: DictConfig) -> None:
    """Write the page of the augmented training images."""
    if settings.annotations is not None or settings.predictions is not None:
        raise UserError("augmented draws training images: give data=... or run=DIR, and no predictions")
    dataset = open_data(config, "train")
    transform = configs.build(config.data.train_transform)
    loader = configs.build(config.data.train_loader)(dataset, transform, 1, seed=config.seed)
    folder = open_run_dir(settings.run_dir)
    (folder / "pictures").mkdir(exist_ok=True)
    draws = [
        (index, epoch)
        for index in range(len(dataset))[: settings.num_images]
        for epoch in range(settings.augmented)
    ]
    names = {int(c["id"]): str(c["name"]) for c in dataset.categories}
    lines, cards = skeletons(dataset.categories), []
    for index, epoch in track(draws, "drawing", console=console, disable=not console.is_terminal):
        sample = loader.sample(index, epoch)
        entries = as_annotations(sample, dataset.category_ids)
        place = f"pictures/{index:06d}_{epoch}.jpg"
        _save(folder / place, _picture(visible(sample), [entries], names, settings, lines))
        classes = sorted({names[entry["category_id"]] for entry in entries})
        title = f"{dataset.image_info(index)[0]}, epoch {epoch}"
        cards.append(Card(place, title, classes, _numbers(entries, None)))
    _write(folder, f"train as seed {config.seed} sees it, {len(cards)} pictures", cards, "objects")


def _cards(
    dataset: Dataset,
    truth: dict[str, Any],
    predictions: list[dict[str, Any]] | None,
    settings: DictConfig,
    folder: Path,
) -> list[Card]:
    """Draw every image into ``folder``/pictures. Each card has the numbers by which the page can sort."""
    objects, found = by_image_id(truth["annotations"]), by_image_id(predictions or [])
    wrong: dict[int, dict[str, int]] = {}
    if predictions is not None:
        kind = "segm" if "segm" in kinds_of(predictions) and dataset.has_masks else "bbox"
        wrong = errors.by_image(predictions, truth, kind, settings.score_threshold)
    names = {int(c["id"]): str(c["name"]) for c in dataset.categories}
    lines = skeletons(dataset.categories)
    cards = []
    indices = range(len(dataset))[: settings.num_images]
    for index in track(indices, "drawing", console=console, disable=not console.is_terminal):
        image_id, file_name = dataset.image_id(index), dataset.image_info(index)[0]
        sides = [objects[image_id]]
        if predictions is not None:
            sides.append(found[image_id])
        try:
            picture = _picture(dataset.read(index).image, sides, names, settings, lines)
        except CorruptImageError as error:
            if dataset.on_corrupt_image == "stop":
                raise
            console.print(f"left out: {error}")
            continue
        place = f"pictures/{index:06d}.jpg"
        _save(folder / place, picture)
        shown = [r for side in sides for r in side if r.get("score", 1.0) >= settings.score_threshold]
        classes = sorted({names[r["category_id"]] for r in shown})
        cards.append(Card(place, file_name, classes, _numbers(sides[0], wrong.get(image_id))))
    return cards


def _save(path: Path, picture: Picture) -> None:
    if not cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise UserError(f"{path} cannot be written")


def _picture(
    image: Picture,
    sides: Sequence[list[dict[str, Any]]],
    names: dict[int, str],
    settings: DictConfig,
    lines: dict[int, list[tuple[int, int]]],
) -> Picture:
    """Each of ``sides`` drawn onto the image, at most ``settings.width`` pixels wide, next to each other."""
    width = min(image.shape[1], settings.width)
    drawn = [
        to_width(draw_results(image, side, names, settings.score_threshold, lines), width) for side in sides
    ]
    return drawn[0] if len(drawn) == 1 else side_by_side(drawn[0], drawn[1])


def _numbers(objects: Sequence[dict[str, Any]], wrong: dict[str, int] | None) -> dict[str, float]:
    numbers: dict[str, float] = {"objects": sum(not o.get("iscrowd") for o in objects)}
    if wrong is None:
        return numbers
    return {"errors": sum(wrong[kind] for kind in _WRONG), **numbers, **wrong}
