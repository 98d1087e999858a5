"""The operators against torchvision's, on 512 regions of an 800x1333 image."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from maskrcnn_ops import (
    RoIOp,
    batched_nms,
    masks_to_rle,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_pool,
    roi_warp,
)
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.regions import IMAGE, LAYOUTS, STRIDES, pyramid, regions
from benchmarks.timing import Row, compare, keep_freed_memory, machine
from maskrcnn.training.logging import peak_memory_mib


def run(repeats: int = 7, channels: int = 1024) -> dict[str, Any]:
    """All comparisons; the times are CPU time of one thread but where a row says otherwise.

    channels: of the C4 map (a quarter of it in the pyramid); 1024 is ResNet-50's.
    """
    before = {**machine(), "freed_memory_kept": keep_freed_memory()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = [
        *_fpn(repeats, channels // 4, 7, ("8x", "10x"), ("4x", "5x")),
        *_fpn(repeats, channels // 4, 14, ("", ""), ("", "")),
        *_c4(repeats, channels),
        *_warp(repeats, channels),
        *position_sensitive(repeats),
        _nms(repeats),
        *_rle(repeats),
    ]
    torch.set_num_threads(threads)
    if threads > 1:
        rows += _threads(repeats, channels)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return {
        "machine": before,
        "versions": versions,
        "peak_memory": _peaks(),
        "rows": [r.as_json() for r in rows],
    }


def _fpn(
    repeats: int, channels: int, output: int, last: tuple[str, str], first: tuple[str, str]
) -> Iterator[Row]:
    """A pyramid of four levels in one call, against torchvision's MultiScaleRoIAlign."""
    boxes = regions()
    peer = MultiScaleRoIAlign(["0", "1", "2", "3"], output, 2)
    operator = RoIOp.preset("align_legacy")  # what MultiScaleRoIAlign computes
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    for (name, layout), goals in zip(LAYOUTS.items(), (last, first), strict=True):
        maps = pyramid(channels, layout)

        def ours(maps: dict[int, Tensor]) -> Tensor:
            return operator(maps, boxes[None], valid, output)

        def theirs(maps: dict[int, Tensor]) -> Tensor:
            named = {str(i): maps[s] for i, s in enumerate(STRIDES)}
            pooled: Tensor = peer(named, [boxes], [IMAGE])
            return pooled

        setting = f"FPN {output}x{output}, 2x2 samples, C={channels}, {name}"
        yield from _both(repeats, "roi_align", setting, ours, theirs, maps, goals)


def _c4(repeats: int, channels: int) -> Iterator[Row]:
    """One map of stride 16."""
    boxes = regions()
    rows = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    align: dict[str, Any] = {
        "output_size": 14,
        "spatial_scale": 1 / 16,
        "sampling_ratio": 2,
        "aligned": True,
    }
    pool: dict[str, Any] = {"output_size": 7, "spatial_scale": 1 / 16}
    for name, layout in LAYOUTS.items():
        maps = pyramid(channels, layout, (16,))
        calls: list[tuple[str, Any, Any, str, tuple[str, str]]] = [
            (
                "roi_align",
                partial(roi_align, **align),
                partial(torchvision.ops.roi_align, **align),
                "C4 14x14, 2x2 samples",
                ("8x", "25x") if name == "channels-last" else ("", ""),
            ),
            (
                "roi_pool",
                partial(roi_pool, **pool),
                partial(torchvision.ops.roi_pool, **pool),
                "C4 7x7",
                ("5x", "2.5x"),
            ),
        ]
        for operator, own, other, words, goals in calls:
            setting = f"{words}, C={channels}, {name}"
            ours, theirs = ((lambda maps, f=f: f(maps[16], rows)) for f in (own, other))
            yield from _both(repeats, operator, setting, ours, theirs, maps, goals)


def position_sensitive(repeats: int, classes: int = 21) -> Iterator[Row]:
    """R-FCN's score maps at stride 16: 7 x 7 maps for each class, of VOC's 20 and the background."""
    boxes = regions()
    rows = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    align: dict[str, Any] = {"output_size": 7, "spatial_scale": 1 / 16, "sampling_ratio": 2}
    pool: dict[str, Any] = {"output_size": 7, "spatial_scale": 1 / 16}
    for name, layout in LAYOUTS.items():
        maps = pyramid(49 * classes, layout, (16,))
        calls = [
            ("ps_align", partial(ps_roi_align, **align), partial(torchvision.ops.ps_roi_align, **align)),
            ("ps_pool", partial(ps_roi_pool, **pool), partial(torchvision.ops.ps_roi_pool, **pool)),
        ]
        for operator, own, other in calls:
            samples = ", 2x2 samples" if operator == "ps_align" else ""
            setting = f"C4 7x7{samples}, C={classes} x 49, {name}"
            ours, theirs = ((lambda maps, f=f: f(maps[16], rows)) for f in (own, other))
            yield from _both(repeats, operator, setting, ours, theirs, maps, ("5x", "5x"))


def _both(
    repeats: int,
    name: str,
    setting: str,
    ours: Callable[[dict[int, Tensor]], Tensor],
    theirs: Callable[[dict[int, Tensor]], Tensor],
    maps: dict[int, Tensor],
    goals: tuple[str, str],
) -> Iterator[Row]:
    """Forward, then backward alone, on the same maps."""
    with torch.no_grad():
        yield compare(
            f"{name} forward",
            "torchvision",
            setting,
            lambda: ours(maps),
            lambda: theirs(maps),
            repeats,
            goals[0],
        )
    leaves = {s: m.detach().requires_grad_() for s, m in maps.items()}
    sides = []
    for side in (ours, theirs):
        pooled = side(leaves)
        grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))
        grad = grad.contiguous(memory_format=_layout_of(pooled))
        sides.append(partial(_backward, pooled, list(leaves.values()), grad))
    yield compare(f"{name} backward", "torchvision", setting, sides[0], sides[1], repeats, goals[1])


def _layout_of(tensor: Tensor) -> torch.memory_format:
    last = tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _backward(pooled: Tensor, leaves: list[Tensor], grad: Tensor) -> None:
    torch.autograd.grad(pooled, leaves, grad, retain_graph=True)


def _warp(repeats: int, channels: int) -> Iterator[Row]:
    """RoIWarp against our own RoIAlign: ratio = warp's peer, align, over warp."""
    boxes = regions()
    rows = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    maps = pyramid(channels, torch.channels_last, (16,))[16]
    align = partial(roi_align, maps, rows, 14, 1 / 16, 2, aligned=True)
    warp = partial(roi_warp, maps, rows, 14, 1 / 16, 2)
    with torch.no_grad():
        setting = f"C4 14x14, 2x2 samples, C={channels}, channels-last"
        yield compare(
            "roi_warp forward", "our roi_align", setting, warp, align, repeats, "0.77x (1.3x the time)"
        )


def _nms(repeats: int) -> Row:
    """Eight images, four levels of 1000 boxes each."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.stack([regions(4000, seed) for seed in range(8)])
    scores = torch.rand(8, 4000, generator=generator)
    levels = torch.arange(4).repeat_interleave(1000).expand(8, -1).contiguous()

    def theirs() -> None:
        for n in range(8):
            torchvision.ops.batched_nms(boxes[n], scores[n], levels[n], 0.7)

    return compare(
        "batched_nms",
        "torchvision, image by image",
        "8 images x 4 levels x 1000 boxes, IoU 0.7",
        lambda: batched_nms(boxes, scores, levels, 0.7),
        theirs,
        repeats,
    )


def _rle(repeats: int) -> Iterator[Row]:
    """100 masks of 28x28 to COCO's run lengths at 480x640: like objects, and ragged ones with three times the runs."""
    rng = np.random.default_rng(0)
    boxes = regions(100) * torch.tensor([640 / 1333, 480 / 800] * 2)
    noise = torch.from_numpy(rng.normal(size=(100, 1, 7, 7))).float()
    noise = torch.nn.functional.interpolate(noise, (28, 28), mode="bilinear")
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    ellipse = 12 - torch.hypot(y - 13.5, x - 13.5)
    for words, logits in (("like objects", ellipse + 2 * noise), ("ragged", noise)):
        yield _rle_row(repeats, words, logits.sigmoid(), boxes)


def _rle_row(repeats: int, words: str, probs: Tensor, boxes: Tensor) -> Row:
    def theirs() -> list[dict[str, Any]]:
        pasted = paste_masks_in_image(probs, boxes, (480, 640)) > 0.5
        return [coco_mask.encode(np.asfortranarray(mask[0].numpy())) for mask in pasted]

    ours = [r["counts"] for r in masks_to_rle(probs, boxes, 480, 640)]
    if ours != [r["counts"].decode() for r in theirs()]:
        raise AssertionError("masks_to_rle and torchvision + pycocotools disagree")
    return compare(
        "masks_to_rle",
        "torchvision paste + pycocotools encode",
        f"100 masks 28x28 at 480x640, {words}, identical strings",
        lambda: masks_to_rle(probs, boxes, 480, 640),
        theirs,
        repeats,
        "40x",
    )


def _threads(repeats: int, channels: int) -> Iterator[Row]:
    """Two threads against one, in wall time."""
    boxes = regions()
    rows = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    for name, layout in LAYOUTS.items():
        maps = pyramid(channels, layout, (16,))[16].requires_grad_()
        pooled = roi_align(maps, rows, 14, 1 / 16, 2, aligned=True)
        grad = torch.ones_like(pooled)

        def forward(threads: int, maps: Tensor = maps) -> None:
            torch.set_num_threads(threads)
            roi_align(maps.detach(), rows, 14, 1 / 16, 2, aligned=True)

        def backward(threads: int, maps: Tensor = maps, pooled: Tensor = pooled, grad: Tensor = grad) -> None:
            torch.set_num_threads(threads)
            torch.autograd.grad(pooled, maps, grad, retain_graph=True)

        for direction, call in (("forward", forward), ("backward", backward)):
            yield compare(
                f"roi_align {direction}, 2 threads",
                "itself with 1 thread (wall time)",
                f"C4 14x14, 2x2 samples, C={channels}, {name}",
                partial(call, 2),
                partial(call, 1),
                repeats,
                "1.5x on an idle machine",
                time.perf_counter,
            )


_PEAK = """
from benchmarks import ops
ops.peak({side!r})
"""


def _peaks() -> dict[str, float]:
    """MiB that a forward and backward of C4 14x14 add to a process that holds maps and regions already."""
    found = {}
    for side in ("ours", "torchvision"):
        command = [sys.executable, "-c", _PEAK.format(side=side)]
        printed = subprocess.run(
            command, check=True, capture_output=True, text=True, env=_environment()
        ).stdout
        found[f"{side}, C4 14x14 C=256, MiB"] = round(float(printed), 1)
    return found


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}


def peak(side: str) -> None:
    """Print the MiB that one side adds (called in a process of its own)."""
    torch.set_num_threads(1)
    boxes = regions()
    rows = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    maps = torch.randn(1, 256, 50, 84).contiguous(memory_format=torch.channels_last).requires_grad_()
    align = roi_align if side == "ours" else torchvision.ops.roi_align
    align(maps[:, :8], rows[:4], 14, 1 / 16, 2, aligned=True).sum().backward()
    maps.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_memory_mib()
    align(maps, rows, 14, 1 / 16, 2, aligned=True).sum().backward()
    print(peak_memory_mib() - before)
