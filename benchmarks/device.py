"""The RoI operators on a GPU beside torchvision's, at module level; on a machine without one, in small, on its CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from maskrcnn_ops import RoIOp, kernels, roi_align, roi_pool
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.regions import IMAGE, LAYOUTS, STRIDES, pyramid, regions
from benchmarks.timing import Row, compare, compare_queued, device_of, machine
from maskrcnn.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One operator on maps of one layout: what it is called with on both sides, and what a GPU is to reach."""

    name: str
    setting: str
    ours: Callable[[dict[int, Tensor]], Tensor]
    theirs: Callable[[dict[int, Tensor]], Tensor]
    maps: dict[int, Tensor]
    goals: tuple[str, str]


def run(
    repeats: int = 20,
    images: int = 8,
    channels: int = 1024,
    dtype: str = "bf16",
    device: str = "auto",
    boxes: int = 512,
) -> dict[str, Any]:
    """Forward and backward of every case in turns, whether ours gives the same bits twice, the memory each side adds,
    and the share of the memory's speed that ours reaches.

    On a GPU its own time by events around queued calls, and beside it the host's to queue them; else wall time.
    channels: of the C4 map (a quarter of it in the pyramid). boxes: of an image.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype}: there are {', '.join(DTYPES)}")
    place = device_of(device)
    compiled = kernels.CUDA if place.type == "cuda" else kernels.CPU
    if place.type == "cuda" and not compiled.compiled:
        raise UserError(
            f"device={place}: the CUDA kernels do not run here: {compiled.reason}; device=cpu measures the CPU's"
        )
    rows, facts, speed = [], {}, copy_speed(place)
    for case in cases(images, channels, boxes, DTYPES[dtype], place):
        words = f"{case.setting}, {images} images x {boxes} boxes, {dtype}, {place.type}"
        found, fact = measure(case, words, repeats, place, speed)
        rows += found
        facts[f"{case.name}, {case.setting}"] = fact
    return {
        "machine": machine(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "kernels": "compiled" if compiled.compiled else "reference",
        "copy_gb_per_s": round(speed / 1e9, 1),
        "facts": facts,
        "rows": [row.as_json() for row in rows],
    }


def cases(images: int, channels: int, boxes: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """RoIAlign on a pyramid, RoIAlign and RoIPool on C4."""
    each = [regions(boxes, seed).to(device) for seed in range(images)]
    together, valid = torch.stack(each), torch.ones(images, boxes, dtype=torch.bool, device=device)
    peer = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    operator = RoIOp.preset("align_legacy")  # what MultiScaleRoIAlign computes
    align: dict[str, Any] = {
        "boxes": each,
        "output_size": 14,
        "spatial_scale": 1 / 16,
        "sampling_ratio": 2,
        "aligned": True,
    }
    pool: dict[str, Any] = {"boxes": each, "output_size": 7, "spatial_scale": 1 / 16}

    def pyramid_of_theirs(maps: dict[int, Tensor]) -> Tensor:
        pooled: Tensor = peer({str(i): maps[s] for i, s in enumerate(STRIDES)}, each, [IMAGE] * images)
        return pooled

    for layout, memory_format in LAYOUTS.items():
        fast = layout == "channels-last"
        yield Case(
            "roi_align",
            f"FPN 7x7, C={channels // 4}, {layout}",
            lambda m: operator(m, together, valid, 7),
            partial(in_float32, pyramid_of_theirs),
            pyramid(channels // 4, memory_format, STRIDES, images, dtype, device),
            ("6x", "4x") if fast else ("", ""),
        )
        maps = pyramid(channels, memory_format, (16,), images, dtype, device)
        yield Case(
            "roi_align",
            f"C4 14x14, C={channels}, {layout}",
            lambda m: roi_align(m[16], **align),
            partial(in_float32, lambda m: torchvision.ops.roi_align(m[16], **align)),
            maps,
            ("6x", "") if fast else ("", ""),
        )
        yield Case(
            "roi_pool",
            f"C4 7x7, C={channels}, {layout}",
            lambda m: roi_pool(m[16], **pool),
            partial(in_float32, lambda m: torchvision.ops.roi_pool(m[16], **pool)),
            maps,
            ("", ""),
        )


def in_float32(operator: Callable[[dict[int, Tensor]], Tensor], maps: dict[int, Tensor]) -> Tensor:
    """As autocast calls torchvision's operators, which want boxes of the maps' type and know no bfloat16 on a GPU."""
    dtype = next(iter(maps.values())).dtype
    return operator({stride: m.float() for stride, m in maps.items()}).to(dtype)


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(
    case: Case, setting: str, repeats: int, device: torch.device, speed: float
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a case, and what else there is to say of it."""

    def forward(side: Callable[[dict[int, Tensor]], Tensor]) -> Tensor:
        with torch.no_grad():
            return side(case.maps)

    leaves = [m.requires_grad_() for m in case.maps.values()]
    grads, calls = [], []
    for side in (case.ours, case.theirs):
        pooled = side(case.maps)
        grads.append(torch.randn_like(pooled))
        calls.append(partial(torch.autograd.grad, pooled, leaves, grads[-1], retain_graph=True))
    timed = compare_queued if device.type == "cuda" else partial(compare, clock=partial(clock, device))
    peer = "torchvision" if leaves[0].dtype == torch.float32 else "torchvision, in float32 as under autocast"
    rows = [
        timed(f"{case.name} {direction}", peer, setting, own, other, repeats, goal)
        for direction, own, other, goal in (
            ("forward", lambda: forward(case.ours), lambda: forward(case.theirs), case.goals[0]),
            ("backward", calls[0], calls[1], case.goals[1]),
        )
    ]
    twice = [calls[0]() for _ in range(2)]
    moved = sum(t.numel() * t.element_size() for t in (*leaves, grads[0]))  # maps and regions, each once
    fact = {
        "backward_same_bits_twice": all(torch.equal(a, b) for a, b in zip(*twice, strict=True)),
        "share_of_copy_speed": {row.name: round(moved / (row.ours_ms / 1e3) / speed, 2) for row in rows},
    }
    if device.type == "cuda":
        fact["peak_mib"] = {
            name: round(peak_mib(lambda f=f: f(case.maps).sum().backward()), 1)  # type: ignore[misc]
            for name, f in (("ours", case.ours), ("torchvision", case.theirs))
        }
    return rows, fact


def copy_speed(device: torch.device) -> float:
    """Bytes a second, read and written, of copying a large tensor: the fastest that memory goes."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, dtype=torch.float32, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(6):
        begun = clock(device)
        target.copy_(source)
        seconds.append(clock(device) - begun)
    return 2 * source.numel() * source.element_size() / statistics.median(seconds[1:])


def peak_mib(call: Callable[[], object]) -> float:
    """The most memory of the GPU that a call adds to what is there before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
