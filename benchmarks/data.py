"""Data, measured: time per COCO image beside torchvision's reference pipeline, memory over workers, sizes of canvas,
and scoring beside pycocotools.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional

from benchmarks import scoring
from benchmarks.timing import Row, compare, machine
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.loader import TrainLoader
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError

PACKAGES = ("torch", "torchvision", "pycocotools", "hotcoco", "opencv-python-headless", "pillow")
TRANSFORM = Transform(short_side=800, max_size=1333, horizontal_flip=0.5)


def run(
    root: Path, images: int = 40, repeats: int = 7, scored_images: int = 5000, detections: int = 36
) -> dict[str, Any]:
    """All comparisons; times are CPU time of the process, which for loading has one thread.

    root: COCO's val2017/ and annotations/. images: read in each turn. repeats: turns of the loading; scoring takes
    two. scored_images, detections: of scoring.
    """
    annotations = root / "annotations" / "instances_val2017.json"
    if not annotations.is_file():
        raise UserError(f"the data benchmark reads COCO images; there is no {annotations}")
    before, threads = machine(), torch.get_num_threads()
    torch.set_num_threads(1)
    dataset = CocoDataset(annotations, root / "val2017")
    loading = _loading(dataset, images, repeats)
    torch.set_num_threads(threads)
    scored = list(scoring.rows(scored_images, detections, 2))
    return {
        "machine": before,
        "versions": {name: version(name) for name in PACKAGES},
        "memory": memory(),
        "canvases": canvases(dataset),
        "largest_difference_of_scores": max(difference for _, difference in scored),
        "rows": [row.as_json() for row in [*loading, *(row for row, _ in scored)]],
    }


def _loading(dataset: CocoDataset, images: int, repeats: int) -> list[Row]:
    """Milliseconds per image of the whole pipeline, and of decoding alone, which is most of it."""
    setting = "one COCO image: decode, resize to 800, flip, targets; one core"
    sides = (lambda: _ours(dataset, images)), (lambda: _torchvision(dataset, images))
    whole = compare("loading", "torchvision's reference pipeline", setting, *sides, repeats, "3x")
    alone = compare(
        "loading", "decoding alone", setting, sides[0], lambda: _decoding(dataset, images), repeats
    )
    return [
        replace(row, ours_ms=row.ours_ms / images, peer_ms=row.peer_ms / images) for row in (whole, alone)
    ]


def _ours(dataset: CocoDataset, images: int) -> None:
    loader = TrainLoader(dataset, TRANSFORM, 2)
    for _ in islice(loader.batches(), images // 2):
        pass


def _decoding(dataset: CocoDataset, images: int) -> None:
    order = TrainLoader(dataset, Transform(), 2).order
    for step in range(images // 2):
        for ticket in order.batch(step):
            cv2.imdecode(
                np.fromfile(dataset.images / dataset.image_info(ticket.place)[0], np.uint8), cv2.IMREAD_COLOR
            )


def _torchvision(dataset: CocoDataset, images: int) -> None:
    """references/detection: PIL, one full mask per object, flip, and the model's own resizing of image and
    masks.
    """
    order = TrainLoader(dataset, Transform(), 2).order
    resize = GeneralizedRCNNTransform(800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).train()
    for step in range(images // 2):
        pixels, targets = [], []
        for ticket in order.batch(step):
            record = dataset.record(ticket.place)
            image = Image.open(dataset.images / record.file_name).convert("RGB")
            masks = [_full_mask(s, record.height, record.width) for s in record.segmentations]
            stack = (
                torch.stack(masks)
                if masks
                else torch.zeros(0, record.height, record.width, dtype=torch.uint8)
            )
            boxes = torch.from_numpy(record.boxes)
            picture = functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True)
            if ticket.key % 2:
                picture, stack = picture.flip(-1), stack.flip(-1)
                boxes = torch.stack(
                    [record.width - boxes[:, 2], boxes[:, 1], record.width - boxes[:, 0], boxes[:, 3]], 1
                )
            pixels.append(picture)
            targets.append({"boxes": boxes, "masks": stack, "labels": torch.from_numpy(record.labels)})
        resize(pixels, targets)


def _full_mask(segmentation: Any, height: int, width: int) -> torch.Tensor:
    rles = coco_mask.frPyObjects(segmentation, height, width)
    mask = coco_mask.decode(rles)
    return torch.as_tensor(mask if mask.ndim == 2 else mask.any(axis=2), dtype=torch.uint8)


def memory() -> dict[str, float]:
    """MiB that 100,000 annotations add to the proportional set size over 100, with one and with eight
    workers.
    """
    added = {}
    for workers in (1, 8):
        many, few = (_measured(workers, number) for number in (100_000, 100))
        added[f"{workers} workers"] = round(many - few, 1)
    return {**added, "ratio": round(added["8 workers"] / added["1 workers"], 3)}


def canvases(dataset: CocoDataset, batch_size: int = 2) -> dict[str, dict[str, float]]:
    """How many sizes of canvas an epoch has, and the share of its pixels that is padding, by bucket setting."""
    listed = [[800, 1088], [800, 1344], [1088, 800], [1344, 800], [1344, 1344]]
    found = {}
    for name, buckets in (("32", None), ("128", 128), (str(listed), listed)):
        loader = TrainLoader(dataset, TRANSFORM, batch_size, buckets=buckets)
        tickets = [loader.order.batch(step) for step in range(loader.steps_per_epoch)]
        sizes = [[_resized(dataset.sizes[ticket.place]) for ticket in batch] for batch in tickets]
        shapes = [loader.canvas.size(*np.max(batch, axis=0).tolist()) for batch in sizes]
        covered = sum(h * w for batch in sizes for h, w in batch)
        area = sum(len(batch) * h * w for batch, (h, w) in zip(sizes, shapes, strict=True))
        found[name] = {"sizes": len(set(shapes)), "padding": round(1 - covered / area, 3)}
    return found


def _resized(size: Sequence[int]) -> tuple[int, int]:
    return TRANSFORM.resized((int(size[0]), int(size[1])), np.random.default_rng(0))


def _measured(workers: int, number: int) -> float:
    """A process of its own for each measurement, so that none sees the memory of another."""
    command = [sys.executable, "-c", f"from benchmarks.data import report; report({workers}, {number})"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def report(workers: int, number: int) -> None:
    """Prints the set size of this process and its workers after every annotation was read."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _many_annotations(Path(folder), number)
        loader = TrainLoader(dataset, Transform(), 20, num_workers=workers)
        batches = loader.batches()
        for _ in islice(batches, max(loader.steps_per_epoch, 1)):
            pass
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        print(sum(_set_size(pid) for pid in ["self", *children]) / 1024)


def _set_size(pid: str) -> int:
    """Proportional set size in KiB: shared pages count by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])


def _many_annotations(folder: Path, number: int) -> CocoDataset:
    """Twenty polygons of 30 corners in each image; all images are one small file."""
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "1.png"), np.zeros((64, 64, 3), np.uint8))
    turn = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    polygon = (32 + 20 * np.stack([np.cos(turn), np.sin(turn)], axis=1)).round(2).reshape(-1).tolist()
    shared = {
        "category_id": 1,
        "bbox": [12, 12, 40, 40],
        "area": 1200,
        "iscrowd": 0,
        "segmentation": [polygon],
    }
    images = [{"id": i, "file_name": "1.png", "height": 64, "width": 64} for i in range(1, number // 20 + 1)]
    annotations = [{"id": k + 1, "image_id": k // 20 + 1, **shared} for k in range(number)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return CocoDataset(path, folder / "images")
