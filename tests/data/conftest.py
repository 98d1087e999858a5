"""Small data sets for these tests, and where the real ones may lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

REAL_DATA = Path(
    os.environ.get("MASKRCNN_REAL_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data")
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors here are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set; the test skips, in words, where it is not."""

    def folder(name: str) -> Path:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"the real data {REAL_DATA / name} is not here (MASKRCNN_REAL_DATA names its folder)")
        return REAL_DATA / name

    return folder


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes images of random pixels and a COCO json; returns the paths of both."""

    def write(
        annotations: list[dict[str, Any]] | None = None,
        sizes: tuple[tuple[int, int], ...] = ((40, 60), (60, 40), (48, 48)),
        categories: list[dict[str, Any]] | None = None,
        **changes: Any,
    ) -> tuple[Path, Path]:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        images = []
        for number, (height, width) in enumerate(sizes, start=1):
            cv2.imwrite(
                str(folder / f"{number}.png"), rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            )
            images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        data = {
            "images": images,
            "annotations": annotations or [],
            "categories": categories or [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
            **changes,
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(data))
        return path, folder

    return write


@pytest.fixture
def write_voc(tmp_path: Path) -> Callable[..., Path]:
    """A VOC folder with images 000007 (a dog, a difficult cat, masks) and 000009 (boxes alone)."""

    def write(
        objects: Sequence[tuple[str, tuple[int, ...], int]] = (), masks: np.ndarray | None = None
    ) -> Path:
        root = tmp_path / "VOC2007"
        for name in (
            "JPEGImages",
            "Annotations",
            "SegmentationObject",
            "ImageSets/Segmentation",
            "ImageSets/Main",
        ):
            (root / name).mkdir(parents=True, exist_ok=True)
        objects = objects or [("dog", (3, 2, 12, 11), 0), ("cat", (15, 5, 30, 20), 1)]
        for name in ("000007", "000009"):
            Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
            body = "".join(
                f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox><xmin>{b[0]}</xmin>"
                f"<ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
                for kind, b, hard in objects
            )
            size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{body}</annotation>")
        if masks is None:
            masks = np.zeros((24, 32), np.uint8)
            masks[1:11, 2:12] = 255
            masks[3:9, 4:10] = 1
            masks[6:18, 16:28] = 2
        picture = Image.new("P", (32, 24))
        picture.putdata(masks.reshape(-1).tolist())
        picture.putpalette([value for k in range(256) for value in (k, 255 - k, k // 2)])
        picture.save(root / "SegmentationObject" / "000007.png")
        (root / "ImageSets" / "Segmentation" / "train.txt").write_text("000007\n")
        (root / "ImageSets" / "Main" / "train.txt").write_text("000007\n000009\n")
        (root / "ImageSets" / "Main" / "dog_train.txt").write_text("000007  1\n000009 -1\n")
        return root

    return write


def annotation(number: int, image_id: int = 1, category_id: int = 3, **changes: Any) -> dict[str, Any]:
    """A valid annotation, a box with its outline as polygon, unless changed."""
    x, y, w, h = changes.get("bbox", [5, 6, 20, 10])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        **changes,
    }
