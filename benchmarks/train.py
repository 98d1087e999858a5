"""A training step of Mask R-CNN R50-FPN beside torchvision's: same weights, images and batch, in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

from benchmarks import detectors
from benchmarks.counting import Counted
from benchmarks.timing import Row, compare, keep_freed_memory, machine
from maskrcnn.data.loader import TrainBatch
from maskrcnn.engine.distributed import World
from maskrcnn.engine.guard import LossGuard
from maskrcnn.engine.learner import Learner, Precision
from maskrcnn.engine.logs import RunLog
from maskrcnn.engine.schedule import Schedule
from maskrcnn.engine.train import train
from maskrcnn.models.mask_rcnn import MaskRCNN

SETTING = "R50-FPN, frozen norms, stem and res2 frozen, 512 regions an image, SGD"
LR = 1e-6  # the weights stay, in effect, those that both sides share


def run(
    repeats: int = 5, batch: int = 2, side: int = 512, threads: int = 2, precisions: str = "fp32,bf16"
) -> dict[str, Any]:
    """Steps of ``batch`` images of ``side`` x ``side``; the peer always computes in float32.

    On a GPU also its automatic mixed precision, and 8 images of 800 x 1344 in bf16 (batch=8 side=1024 for a square).
    """
    before = {**machine(), "freed_memory_kept": keep_freed_memory(), "threads": threads}
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        images = detectors.pictures(folder, batch, side)
        eight = detectors.pictures(folder, 8, 128)
    rows, losses = [], {}
    for precision in precisions.split(","):
        own, peer = detectors.pair(images, side)
        ours, theirs = (
            our_step(own.to(device), images, device, precision),
            their_step(peer.to(device), images, device),
        )
        setting = f"{SETTING}, {batch} x {side}x{side}, ours in {precision}, {device.type}, {threads} threads"
        goal = {"fp32": "1.5x", "bf16": "2.5x"}[precision] if device.type == "cpu" else "2.5x"
        rows.append(_row(setting, ours, theirs, repeats, goal, device))
        losses[precision] = {"ours": ours(), "torchvision": theirs()}
    return {
        "machine": before,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "losses": losses,
        "per_step_at_batch_8": counts(eight, device),
        "rows": [row.as_json() for row in rows],
    }


def _row(
    setting: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    goal: str,
    device: torch.device,
) -> Row:
    def finished(step: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return call

    sides = finished(ours), finished(theirs)
    return compare(
        "training step (wall time)", "torchvision", setting, *sides, repeats, goal, time.perf_counter
    )


def counts(batch: TrainBatch, device: torch.device) -> dict[str, Any]:
    """Operators dispatched in a step, and those that make the host wait; they do not depend on the images' size."""
    side = int(batch.images.pixels.shape[-1])
    own, peer = detectors.pair(batch, side)
    steps = {
        "ours": our_step(own.to(device), batch, device, "fp32"),
        "torchvision": their_step(peer.to(device), batch, device),
    }
    found: dict[str, Any] = {}
    for name, step in steps.items():
        step()  # what is made once is not counted
        with Counted() as counted:
            step()
        found[name] = {"dispatches": counted.dispatches, "host_syncs": dict(counted.syncs)}
    found["ratio"] = round(found["torchvision"]["dispatches"] / found["ours"]["dispatches"], 2)
    return found


def our_step(
    model: MaskRCNN, batch: TrainBatch, device: torch.device, precision: Precision | str
) -> Callable[[], dict[str, float]]:
    """The engine's own training loop, one step at a time; the losses are those of the step before."""
    schedule = Schedule(steps=0, batch_size=len(batch.image_ids), lr=LR, lr_batch_size=len(batch.image_ids))
    learner = Learner(model, schedule, device, precision)  # type: ignore[arg-type]
    guard, log = LossGuard(device, 1e9), RunLog(Path(), 0, 0, len(batch.image_ids), active=False)
    last: dict[str, float] = {}

    def after(step: int, report: Any) -> bool:
        last.update({} if report is None else report.losses)
        return False

    def step() -> dict[str, float]:
        start, schedule.steps = schedule.steps, schedule.steps + 1
        train(learner, iter([batch]), World(), guard, log, lambda: False, after, start)
        return dict(last)

    return step


def their_step(model: Any, batch: TrainBatch, device: torch.device) -> Callable[[], dict[str, float]]:
    """One step of torchvision's references/detection/engine.py."""
    images, targets = detectors.for_torchvision(batch)
    images = [image.to(device) for image in images]
    targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=LR, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> dict[str, float]:
        losses = model(images, targets)
        total = sum(losses.values())
        if not torch.isfinite(total.detach()).item():
            raise RuntimeError(f"torchvision's loss is not finite: {losses}")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    return step
