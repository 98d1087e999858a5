"""Small data sets for these tests, and where the real ones may lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

REAL_DATA = Path(
    os.environ.get("MASKRCNN_REAL_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data")
)


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
