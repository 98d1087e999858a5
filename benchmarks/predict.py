"""`maskrcnn.Predictor`, measured: pictures in batches against one by one."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.data.images import read_image
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.prediction.inputs import find_images
from maskrcnn.prediction.predictor import Predictor
from maskrcnn.training.distributed import open_device


def run(
    images: Path,
    count: int = 30,
    model: str = "r50_fpn",
    short_side: int = 800,
    batch_size: int = 8,
    rounds: int = 1,
    device: str = "auto",
) -> dict[str, Any]:
    """Seconds for the first ``count`` pictures of the folder ``images`` at ``batch_size`` and at 1, in turns, with
    random weights; process CPU time of one thread without a GPU.
    """
    pictures = [read_image(path) for path in find_images(str(images))[:count]]
    if len(pictures) < count:
        raise UserError(f"images={images} holds {len(pictures)} pictures, fewer than count={count}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = open_device(device, None)
    detector = assembly.build_model(configs.compose_config("train", ["num_classes=80", f"model={model}"]))
    transform = Transform(short_side=short_side, max_size=round(short_side * 1333 / 800))
    sides = {size: Predictor(detector, transform, chosen, size) for size in dict.fromkeys((batch_size, 1))}
    clock = time.process_time if chosen.type == "cpu" else time.perf_counter
    for side in sides.values():
        side.predict(pictures[:1])
    times: dict[int, list[float]] = {size: [] for size in sides}
    for _ in range(rounds):
        for size, side in sides.items():
            begun = clock()
            side.predict(pictures)
            times[size].append(clock() - begun)
    ratios = [one / many for one, many in zip(times[1], times[batch_size], strict=True)]
    many, one = (statistics.median(times[size]) * 1e3 / count for size in (batch_size, 1))
    row = {
        "name": "predict",
        "setting": f"{model}, short side {short_side}, {count} pictures, batch {batch_size}, {chosen}",
        "peer": "batch 1",
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ours_ms": many,
        "peer_ms": one,
        "goal": "",
    }
    return {"rows": [row], "milliseconds": "per picture"}
