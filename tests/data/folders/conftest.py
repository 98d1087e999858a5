"""What the tests of formats share: images to annotate, and the masks that a data set reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folders.source import FolderSource

SIZE = 40, 60  # height, width


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes an image of random pixels."""

    def write(name: str, size: tuple[int, int] = SIZE) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), np.uint8)
        assert cv2.imwrite(str(path), pixels)
        return path

    return write


def everything(root: Path, **settings: Any) -> Dataset:
    """All images of a folder, none of them for validation."""
    return FolderSource(str(root), val_share=0, **settings).train()


def read(dataset: Dataset) -> dict[str, list[tuple[str, Any]]]:
    """For each image the classes of its objects and their masks ``[H, W]``, or their boxes where they have none."""
    found: dict[str, list[tuple[str, Any]]] = {}
    names = [category["name"] for category in dataset.categories]
    for index in range(len(dataset)):
        example = dataset.read(index)
        objects = found.setdefault(dataset.image_info(index)[0], [])
        for label, box, mask in zip(example.labels, example.boxes, example.masks, strict=True):
            objects.append(
                (names[label], box.tolist() if mask is None else mask.full(*example.image.shape[:2]))
            )
    return found


def check(found: list[tuple[str, Any]], *expected: tuple[str, Any]) -> None:
    """An image's objects in order: classes, and masks to the pixel."""
    assert [name for name, _ in found] == [name for name, _ in expected]
    for place, ((name, mask), (_, wanted)) in enumerate(zip(found, expected, strict=True)):
        assert np.shape(mask) == np.shape(wanted), f"object {place}, {name}"
        wrong = np.argwhere(np.asarray(mask) != np.asarray(wanted))
        assert not len(wrong), f"object {place}, {name}: {len(wrong)} pixels, the first at {wrong[0]}"


def block(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The pixels from x1, y1 to before x2, y2."""
    mask = np.zeros(size, np.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


def disc(
    x: float, y: float, rx: float, ry: float, degrees: float = 0, size: tuple[int, int] = SIZE
) -> np.ndarray:
    """The pixels whose centres lie in an ellipse, one by one: turned back, and measured along its axes."""
    mask = np.zeros(size, np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            distance = math.hypot(column + 0.5 - x, row + 0.5 - y)
            angle = math.atan2(row + 0.5 - y, column + 0.5 - x) - math.radians(degrees)
            mask[row, column] = (distance * math.cos(angle) / rx) ** 2 + (
                distance * math.sin(angle) / ry
            ) ** 2 <= 1
    return mask


# An L of three blocks of 10 pixels, and its pixels.
L_SHAPE = [[10, 5], [20, 5], [20, 15], [30, 15], [30, 25], [10, 25]]


def l_shape() -> np.ndarray:
    return block(10, 5, 20, 25) | block(20, 15, 30, 25)
