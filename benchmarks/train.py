"""A training step of Mask R-CNN R50-FPN beside the peers': same weights, images and batch, in turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision

from benchmarks import detectors, detectron2, memory
from benchmarks.counting import Counted, arithmetic
from benchmarks.regions import IMAGE
from benchmarks.timing import Row, compare, compare_steps, keep_freed_memory, machine
from maskrcnn.data.loader import TrainBatch
from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.training.distributed import World
from maskrcnn.training.guard import LossGuard
from maskrcnn.training.learner import Learner
from maskrcnn.training.logging import RunLog
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Schedule

Step = dict[str, Any]
# Of our step: as it is, compile=true, and cuda_graphs=true with it.
VARIANTS = ("eager", "compiled", "graphs")
SETTING = "R50-FPN, frozen norms, stem and res2 frozen, 512 regions an image, SGD"
COMPILING = 3  # steps until every shape is compiled and captured
LR = 1e-6  # the weights stay, in effect, those that both sides share


@dataclass(frozen=True)
class Comparison:
    """Our precision, that of torchvision's step (fp16 and bf16: as its ``--amp``), and the ratio to reach."""

    ours: Precision
    peer: Precision
    goal: str
    variant: str = "eager"

    @property
    def own(self) -> str:
        """Our side in words."""
        return self.ours if self.variant == "eager" else f"{self.ours} {self.variant}"

    @property
    def name(self) -> str:
        """Both sides in words; torchvision's in float32 goes without saying."""
        return self.own if self.peer == "fp32" else f"{self.own} beside {self.peer}"


def comparisons(
    device: torch.device, precisions: str, peers: str, variants: str = "eager"
) -> list[Comparison]:
    """Every one of ``precisions`` in every one of ``variants`` beside every one of ``peers``; empty: what the device
    is measured in."""
    on_cpu = device.type == "cpu"
    wanted = precisions or ("fp32,bf16" if on_cpu else "bf16")
    beside = peers or ("fp32" if on_cpu else "fp32,fp16")
    for variant in variants.split(","):
        if variant not in VARIANTS:
            raise UserError(f"{variant}: of variants there are {', '.join(VARIANTS)}")
        if variant == "graphs" and on_cpu:
            raise UserError("variants=graphs captures CUDA graphs, and there is no GPU here")
    found = []
    for ours in map(detectors.known_precision, wanted.split(",")):
        for variant in variants.split(","):
            for peer in map(detectors.known_precision, beside.split(",")):
                goal = "1.5x" if on_cpu and ours == "fp32" else "2.5x"
                found.append(Comparison(ours, peer, goal if peer == "fp32" else "1.6x", variant))
    return found


def dimensions(device: torch.device, batch: int, side: int) -> tuple[int, tuple[int, int]]:
    """Images of a step and their (height, width); 0: 2 of 512 x 512 on a CPU, 8 of 800 x 1333 on a GPU."""
    on_cpu = device.type == "cpu"
    size = (side, side) if side else ((512, 512) if on_cpu else IMAGE)
    return batch or (2 if on_cpu else 8), size


def run(
    repeats: int = 5,
    batch: int = 0,
    side: int = 0,
    threads: int = 2,
    precisions: str = "",
    peers: str = "",
    variants: str = "eager",
) -> dict[str, Any]:
    """Steps of ``batch`` images of ``side`` x ``side``, ours in each of ``precisions`` and ``variants`` (``eager``,
    ``compiled``, ``graphs``), torchvision's in ``peers``.

    Nothing given: `dimensions` and `comparisons` of the device; on a GPU ours in bf16 beside fp32 and fp16 (AMP).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = comparisons(device, precisions, peers, variants)
    batch, size = dimensions(device, batch, side)
    before = {**machine(), "freed_memory_kept": keep_freed_memory(), "threads": threads}
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        images = detectors.pictures(folder, batch, size)
        eight = detectors.pictures(folder, 8, (128, 128))
    rows, losses, work, speed = list[Row](), {}, {}, {}
    for pair in wanted:
        own, peer = detectors.pair(images)
        ours = _finished(our_step(own.to(device), images, device, pair.ours, pair.variant), device)
        theirs = _finished(their_step(peer.to(device), images, device, pair.peer), device)
        for _ in range(0 if pair.variant == "eager" else COMPILING):
            ours()
        shape = f"{batch} x {size[0]}x{size[1]}"
        setting = f"{SETTING}, {shape}, ours in {pair.own}, {device.type}, {threads} threads"
        words = f"torchvision in {pair.peer}{'' if pair.peer == 'fp32' else ' autocast'}"
        wall, cpu = compare_steps("training step", words, setting, ours, theirs, repeats, pair.goal)
        rows += [wall, cpu]
        speed[pair.name] = images_per_second(wall, batch)
        if device.type == "cpu" and pair.ours == "fp32" and pair.variant == "eager":
            work = arithmetic({"ours": ours, "torchvision": theirs})
        losses[pair.name] = {"ours": _rounded(ours()), "torchvision": _rounded(theirs())}
    if detectron2.is_installed():
        rows += _beside_detectron2(
            images, device, f"{SETTING}, {batch} x {size[0]}x{size[1]}", threads, repeats
        )
    return {
        "machine": before,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "bf16_convolution": _bf16_convolution(device),
        "arithmetic": work,
        "images_per_second": speed,
        "peak_memory": memory.peaks("train", batch=batch, size=size, threads=threads),
        "last_losses": losses,
        "per_step_at_batch_8": counts(eight, device),
        "rows": [row.as_json() for row in rows],
    }


def _beside_detectron2(
    images: TrainBatch, device: torch.device, setting: str, threads: int, repeats: int
) -> list[Row]:
    """Both sides in float32."""
    own, _ = detectors.pair(images)
    peer = detectron2.with_weights_of(own, device)
    ours = _finished(our_step(own.to(device), images, device, "fp32"), device)
    theirs = _finished(detectron2.step(peer, images, LR), device)
    setting += f", ours in fp32, {device.type}, {threads} threads"
    return compare_steps("training step", "Detectron2 in fp32", setting, ours, theirs, repeats, "1.5x")


def one_side(name: str, batch: int, size: Sequence[int], threads: int) -> Callable[[], Step]:
    """A step in float32 of one side alone, for `memory.peaks`."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        images = detectors.pictures(folder, batch, (size[0], size[1]))
    own, peer = detectors.pair(images)
    if name == "ours":
        return our_step(own.to(device), images, device, "fp32")
    if name == "Detectron2":
        return detectron2.step(detectron2.with_weights_of(own, device), images, LR)
    return their_step(peer.to(device), images, device, "fp32")


def images_per_second(row: Row, batch: int) -> dict[str, float]:
    """Of both sides, from the median time of a step of ``batch`` images."""
    return {"ours": round(1e3 * batch / row.ours_ms, 2), "torchvision": round(1e3 * batch / row.peer_ms, 2)}


def _rounded(losses: Step) -> dict[str, float]:
    return {name: round(torch.as_tensor(value).item(), 4) for name, value in losses.items()}


def _finished(step: Callable[[], Step], device: torch.device) -> Callable[[], Step]:
    """The step with what it left running on a GPU."""

    def call() -> Step:
        result = step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    return call


def _bf16_convolution(device: torch.device) -> str:
    """What bf16 gives here at all: a 3x3 convolution of 256 channels in float32 against the same in bf16."""
    x = torch.randn(1, 256, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    half, half_weight = x.bfloat16(), weight.bfloat16()
    row = compare(
        "", "", "", lambda: F.conv2d(half, half_weight, padding=1), lambda: F.conv2d(x, weight, padding=1), 3
    )
    return f"{statistics.median(row.ratios):.2f} times as fast as in float32"


def counts(batch: TrainBatch, device: torch.device) -> dict[str, Any]:
    """Operators dispatched in a step, and those that make the host wait; neither depends on the size of
    the images or on the number of regions."""
    own, peer = detectors.pair(batch, regions=32)
    steps = {
        "ours": our_step(own.to(device), batch, device, "fp32", fast_convolutions=False),  # as on a GPU
        "torchvision": their_step(peer.to(device), batch, device, "fp32"),
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
    model: MaskRCNN,
    batch: TrainBatch,
    device: torch.device,
    precision: Precision | str,
    variant: str = "eager",
    fast_convolutions: bool = True,
) -> Callable[[], Step]:
    """The engine's own training loop, one step at a time; the losses are those of the step before."""
    schedule = Schedule(steps=0, batch_size=len(batch.image_ids), lr=LR, lr_batch_size=len(batch.image_ids))
    learner = Learner(model, schedule, device, precision, fast_convolutions)  # type: ignore[arg-type]
    if variant != "eager":
        learner.compile(cuda_graphs=variant == "graphs")
    guard, log = LossGuard(device, 1e9), RunLog(Path(), 0, 0, len(batch.image_ids), active=False)
    last: dict[str, float] = {}

    def after(step: int, report: Any) -> bool:
        last.update({} if report is None else report.losses)
        return False

    def step() -> Step:
        start, schedule.steps = schedule.steps, schedule.steps + 1
        train(learner, iter([batch]), World(), guard, log, lambda: False, after, start)
        return dict(last)

    return step


def their_step(
    model: Any, batch: TrainBatch, device: torch.device, precision: Precision
) -> Callable[[], Step]:
    """One step of torchvision's references/detection/engine.py, in fp16 as its ``--amp``."""
    images, targets = detectors.for_torchvision(batch)
    images = [image.to(device) for image in images]
    targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=LR, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    model.train()

    def step() -> Step:
        with autocast(precision, device):
            losses = model(images, targets)
            total = sum(losses.values())
        if not torch.isfinite(total.detach()).item():
            raise RuntimeError(f"torchvision's loss is not finite: {losses}")
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        return dict(losses)

    return step
