"""A large image made of a data set's images, and the same images one by one: what windows cost in AP.

Usage: python -m benchmarks.mosaic annotations=FILE images=DIR out=DIR [columns=6] [rows=4] [side=1000] [gap=0]

Writes mosaic.png with mosaic.json, and the same images at the same size in single/ with single.json. Score a
checkpoint on both:
  maskrcnn eval checkpoint=FILE data.val_annotations=OUT/single.json data.val_images=OUT/single evaluation.max_dets=150
  maskrcnn eval checkpoint=FILE data.val_annotations=OUT/mosaic.json data.val_images=OUT evaluation.tile=1000 \\
      evaluation.overlap=0.2 evaluation.max_dets=3600
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.masks import encode
from maskrcnn.data.segmentation import embedded

Entry = dict[str, Any]


def make(
    dataset: CocoDataset, out: Path, columns: int = 6, rows: int = 4, side: int = 1000, gap: int = 0
) -> None:
    """Write the mosaic and the single images of the first ``columns * rows`` images.

    Args:
        dataset: with square images.
        out: the folder to write into.
        columns: images in a row.
        rows: rows of images.
        side: pixels of an image in the mosaic, its border included.
        gap: grey pixels between two images, so that what lies in them is not continued by their neighbours.
    """
    (out / "single").mkdir(parents=True, exist_ok=True)
    canvas = np.zeros((rows * side, columns * side, 3), np.uint8)
    single, whole = list[Entry](), list[Entry]()
    names = []
    for place in range(columns * rows):
        example, size = dataset.read(place), (rows * side, columns * side)
        top, left = (place // columns) * side, (place % columns) * side
        inner, border = side - gap, (gap // 2, gap - gap // 2) * 2  # above, below, left, right
        image = cv2.resize(example.image, (inner, inner), interpolation=cv2.INTER_LINEAR)
        image = cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=(128, 128, 128))
        canvas[top : top + side, left : left + side] = image
        names.append(f"{place:03d}.png")
        cv2.imwrite(str(out / "single" / names[-1]), image[..., ::-1])
        for mask, label, crowd in zip(example.masks, example.labels, example.crowd, strict=True):
            if mask is None:
                continue
            full = mask.full(*example.image.shape[:2])
            resized = cv2.resize(full, (inner, inner), interpolation=cv2.INTER_NEAREST)
            bits = cv2.copyMakeBorder(resized, *border, cv2.BORDER_CONSTANT, value=0)
            rle, category = encode(bits), dataset.category_ids[label]
            single.append(_entry(place, rle, category, crowd))
            whole.append(_entry(0, embedded([rle], top, left, size)[0], category, crowd))
    cv2.imwrite(str(out / "mosaic.png"), canvas[..., ::-1])
    _write(out / "single.json", dataset, [(name, side, side) for name in names], single)
    _write(out / "mosaic.json", dataset, [("mosaic.png", rows * side, columns * side)], whole)


def _entry(image_id: int, rle: Entry, category: int, crowd: bool) -> Entry:
    return {
        "image_id": image_id,
        "category_id": category,
        "iscrowd": int(crowd),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": float(coco_mask.area(rle)),
        "segmentation": rle,
    }


def _write(
    path: Path, dataset: CocoDataset, images: Sequence[tuple[str, int, int]], entries: Sequence[Entry]
) -> None:
    content = {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, (name, height, width) in enumerate(images)
        ],
        "categories": dataset.categories,
        "annotations": [{"id": number, **entry} for number, entry in enumerate(entries, 1)],
    }
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    source = CocoDataset(Path(given.pop("annotations")), Path(given.pop("images")))
    make(source, Path(given.pop("out")), **{key: int(value) for key, value in given.items()})
