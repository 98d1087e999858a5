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

from collections.abc import Iterable, Sequence
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
    if settings.augmented is None:
        _browse(settings, config)
    elif settings.annotations is not None or settings.predictions is not None:
        raise UserError("augmented draws training images: give data=... or run=DIR, and no predictions")
    else:
        _browse_augmented(settings, config)


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


class _Page:
    """The page: pictures in ``folder``/pictures, and a card for each.

    Args:
        settings: a `Browse`.
        dataset: its categories are named and its skeletons drawn.
    """

    def __init__(self, settings: DictConfig, dataset: Dataset) -> None:
        self._settings, self.folder = settings, open_run_dir(settings.run_dir)
        (self.folder / "pictures").mkdir(exist_ok=True)
        self._names = {int(c["id"]): str(c["name"]) for c in dataset.categories}
        self._lines = skeletons(dataset.categories)
        self.cards: list[Card] = []

    def add(
        self,
        name: str,
        title: str,
        image: Picture,
        sides: Sequence[list[dict[str, Any]]],
        wrong: dict[str, int] | None = None,
    ) -> None:
        """Draw the objects of one or two ``sides`` onto an image, next to each other.

        Args:
            name: of the picture's file.
            title: of the card.
            image: RGB.
            sides: COCO annotations or results.
            wrong: number of errors by kind, by which the page can sort.
        """
        least, width = self._settings.score_threshold, min(image.shape[1], self._settings.width)
        drawn = [
            to_width(draw_results(image, side, self._names, least, self._lines), width) for side in sides
        ]
        picture, place = (
            drawn[0] if len(drawn) == 1 else side_by_side(drawn[0], drawn[1]),
            f"pictures/{name}.jpg",
        )
        path = self.folder / place
        if not cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88]):
            raise UserError(f"{path} cannot be written")
        shown = [r for side in sides for r in side if r.get("score", 1.0) >= least]
        classes = sorted({self._names[r["category_id"]] for r in shown})
        self.cards.append(Card(place, title, classes, _numbers(sides[0], wrong)))

    def write(self, title: str, sort_by: str) -> None:
        """Write index.html."""
        page = self.folder / "index.html"
        page.write_text(to_page(title, self.cards, sort_by))
        console.print(f"{len(self.cards)} images: {page}")


def _browse(settings: DictConfig, config: DictConfig) -> None:
    """Write the page of a data set, with the predictions if there are any next to the ground truth."""
    dataset = open_data(config, settings.split)
    source = settings.predictions
    if source is None and settings.run is not None and settings.split == "val":
        source = str(Path(settings.run) / "predictions.json")
    truth = dataset.ground_truth()
    predictions = None if source is None else read_results(Path(source), load_ground_truth(truth))
    page = _Page(settings, dataset)
    wrong: dict[int, dict[str, int]] = {}
    if predictions is not None:
        kind = "segm" if "segm" in kinds_of(predictions) and dataset.has_masks else "bbox"
        wrong = errors.by_image(predictions, truth, kind, settings.score_threshold)
    every = [by_image_id(found) for found in (truth["annotations"], predictions) if found is not None]
    for index in _shown(range(len(dataset))[: settings.num_images]):
        image_id, file_name = dataset.image_id(index), dataset.image_info(index)[0]
        try:
            image = dataset.read(index).image
        except CorruptImageError as error:
            if dataset.on_corrupt_image == "stop":
                raise
            console.print(f"left out: {error}")
            continue
        sides = [found[image_id] for found in every]
        page.add(f"{index:06d}", file_name, image, sides, wrong.get(image_id))
    what = f"{settings.run or settings.annotations or settings.split}, {len(page.cards)} images"
    if predictions is None:
        page.write(what, "objects")
    else:
        page.write(
            f"{what}; ground truth | {source}, scores from {settings.score_threshold:g}", sort_by="errors"
        )


def _browse_augmented(settings: DictConfig, config: DictConfig) -> None:
    """Write the page of the augmented training images."""
    dataset = open_data(config, "train")
    transform = configs.build(config.data.train_transform)
    loader = configs.build(config.data.train_loader)(dataset, transform, 1, seed=config.seed)
    page = _Page(settings, dataset)
    indices = range(len(dataset))[: settings.num_images]
    for index, epoch in _shown([(i, e) for i in indices for e in range(settings.augmented)]):
        sample = loader.sample(index, epoch)
        title = f"{dataset.image_info(index)[0]}, epoch {epoch}"
        entries = as_annotations(sample, dataset.category_ids)
        page.add(f"{index:06d}_{epoch}", title, visible(sample), [entries])
    page.write(f"train as seed {config.seed} sees it, {len(page.cards)} pictures", "objects")


def _shown(places: Sequence[Any]) -> Iterable[Any]:
    """``places`` with a progress bar in a terminal."""
    return track(places, "drawing", console=console, disable=not console.is_terminal)


def _numbers(objects: Sequence[dict[str, Any]], wrong: dict[str, int] | None) -> dict[str, float]:
    numbers: dict[str, float] = {"objects": sum(not o.get("iscrowd") for o in objects)}
    if wrong is None:
        return numbers
    return {"errors": sum(wrong[kind] for kind in _WRONG), **numbers, **wrong}
