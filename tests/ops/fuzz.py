"""Random calls of the CPU operators under the address sanitizer:  python -m tests.ops.fuzz [seconds] [seed]

Compiles the kernels with -fsanitize=address into a copy of the package, then calls them for so many seconds (3600 by
default) with random shapes, layouts, dtypes, switches and boxes (off the map, empty, huge, NaN, infinite). An access
out of bounds ends the process with the sanitizer's report; finite features must give finite results and gradients.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ops" / "maskrcnn_ops"


def build(folder: Path) -> None:
    """The package in ``folder``, its kernels instrumented."""
    from torch.utils.cpp_extension import include_paths, library_paths

    copy = folder / "maskrcnn_ops"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    flags = ["-O1", "-g", "-std=c++20", "-ffp-contract=off", "-fPIC", "-shared", "-fsanitize=address"]
    defines = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-fno-omit-frame-pointer"]
    includes = [f"-I{path}" for path in include_paths()]
    libraries = [f"-L{path}" for path in library_paths()] + ["-ltorch_cpu", "-ltorch", "-lc10"]
    sources = sorted(str(path) for path in (copy / "csrc").glob("*.cpp"))
    command = ["g++", *flags, *defines, *includes, *sources, *libraries, "-o", str(copy / "_C_cpu.so")]
    subprocess.run(command, check=True)


def run_instrumented(folder: Path, seconds: float, seed: int) -> int:
    """The calls, in a process that begins with the sanitizer's library; its exit status."""
    asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": asan.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE.parents[1])]),
        "OMP_NUM_THREADS": "2",
    }
    command = [sys.executable, "-m", "tests.ops.fuzz", "--calls", str(seconds), str(seed)]
    return subprocess.run(command, env=environment, check=False).returncode


def calls(seconds: float, seed: int) -> None:
    """Random calls until the time is over; prints how many there were of each operator."""
    from maskrcnn_ops import kernels

    if not kernels.CPU.compiled:
        raise SystemExit(f"the instrumented kernels do not load: {kernels.CPU.reason}")
    counts = dict.fromkeys(("roi", "nms", "rle"), 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        one_call(seed, counts)
        seed += 1
    print(f"{counts} random calls without a finding; the next seed is {seed}")


def one_call(seed: int, counts: dict[str, int]) -> None:
    import numpy as np

    rng = np.random.default_rng(seed)
    try:
        kind = str(rng.choice(["roi", "roi", "roi", "roi", "nms", "rle"]))
        {"roi": call_roi, "nms": call_nms, "rle": call_rle}[kind](rng)
        counts[kind] += 1
    except Exception:
        print(f"seed {seed}", flush=True)
        raise


def some_boxes(rng, count: int, extent: float):  # type: ignore[no-untyped-def]
    """``[count, 4]`` boxes of which some are off the map, turned round, empty, huge, NaN or infinite."""
    import numpy as np
    import torch

    corner = rng.uniform(-0.5 * extent, 1.5 * extent, (count, 2))
    size = np.exp(rng.uniform(-3, 1.5, (count, 2))) * extent
    boxes = np.concatenate([corner, corner + size * rng.choice([1, 1, 1, 0, -1], (count, 2))], 1)
    odd = rng.random((count, 4)) < 0.03
    boxes[odd] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, 2.0**31], int(odd.sum()))
    return torch.from_numpy(boxes)


def call_roi(rng) -> None:  # type: ignore[no-untyped-def]
    import torch
    from maskrcnn_ops import RoIOp

    dtype = [torch.float32, torch.float64, torch.bfloat16, torch.float16][rng.integers(4)]
    sensitive = bool(rng.random() < 0.3)
    operator = RoIOp(
        box_rounding=str(rng.choice(["none", "round", "pixel"])),
        plus_one=bool(rng.integers(2)),
        offset=float(rng.choice([0, 0.5, 0.37, -1.25])),
        min_width=[None, 0, 0.1, 1][rng.integers(4)],
        bin_rounding=bool(rng.integers(2)),
        sampling_ratio=int(rng.integers(-1, 4)),
        sample_position=str(rng.choice(["centre", "corner", "thirds"])),
        border=str(rng.choice(["align", "mnc", "inner"])),
        reduction="avg" if sensitive else str(rng.choice(["avg", "max"])),
        position_sensitive=sensitive,
        canonical_size=float(rng.choice([8, 56, 224])),
    )
    images, channels = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 8, 9, 17, 40, 65]))
    height, width = (int(n) for n in rng.integers(1, 40, 2))
    strides = [4, 8, 16, 32][: int(rng.integers(1, 5))]
    layout = [torch.contiguous_format, torch.channels_last][rng.integers(2)]
    size = int(rng.choice([1, 2, 3, 7, 14]))
    if sensitive:
        channels = min(channels, 9) * size * size
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    features = {
        s: torch.randn(images, channels, -(-height * 4 // s), -(-width * 4 // s), generator=generator)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for s in strides
    }
    regions = int(rng.integers(0, 90))
    boxes = some_boxes(rng, images * regions, 4.0 * max(height, width)).reshape(images, regions, 4)
    boxes = boxes.to([torch.float32, torch.float64][rng.integers(2)])
    valid = torch.from_numpy(rng.random((images, regions)) < 0.9)
    pooled = operator(features, boxes, valid, size)
    assert pooled.isfinite().all(), f"{operator}: not finite"
    gradients = torch.autograd.grad(pooled.sum(), list(features.values()))
    assert all(g.isfinite().all() for g in gradients), f"{operator}: a gradient is not finite"
    if not operator.bin_rounding and rng.random() < 0.25:
        ask_for_the_box_gradient(operator, features, boxes, valid, size)


def ask_for_the_box_gradient(operator, features, boxes, valid, size: int) -> None:  # type: ignore[no-untyped-def]
    """Finite, and 0 for boxes that do not count; the other arguments are those of ``operator``."""
    import torch
    from maskrcnn_ops.functional import pool_regions

    image = torch.where(valid, torch.arange(len(boxes))[:, None], -1).flatten()
    flat = boxes.flatten(0, 1).requires_grad_()
    scales = [1 / stride for stride in features]
    pooled = pool_regions(list(features.values()), flat, image, size, scales, operator, box_gradient=True)
    (gradient,) = torch.autograd.grad(pooled.sum(), flat)
    assert gradient.isfinite().all(), f"{operator}: a box's gradient is not finite"
    counted = (image >= 0) & flat.isfinite().all(1)
    assert (gradient[~counted] == 0).all(), f"{operator}: a box that does not count has a gradient"


def call_nms(rng) -> None:  # type: ignore[no-untyped-def]
    import torch
    from maskrcnn_ops import batched_nms

    images, count = int(rng.integers(1, 4)), int(rng.integers(0, 300))
    boxes = some_boxes(rng, images * count, 100.0).reshape(images, count, 4).float()
    scores = torch.from_numpy(rng.random((images, count))).float()
    scores[torch.from_numpy(rng.random((images, count)) < 0.1)] = -torch.inf
    groups = torch.from_numpy(rng.integers(0, 5, (images, count)))
    keep = batched_nms(boxes, scores, groups, float(rng.random()))
    assert not (keep & (scores == -torch.inf)).any()


def call_rle(rng) -> None:  # type: ignore[no-untyped-def]
    import torch
    from maskrcnn_ops import masks_to_rle
    from pycocotools import mask as coco_mask

    count, side = int(rng.integers(0, 12)), int(rng.choice([1, 7, 14, 28, 56]))
    height, width = (int(n) for n in rng.integers(1, 150, 2))
    probs = torch.from_numpy(rng.random((count, side, side))).float()
    boxes = some_boxes(rng, count, float(max(height, width))).float()
    boxes *= float(rng.choice([1.0, 1.0, 1e3, 1e18]))
    if rng.random() < 0.3:
        probs = (probs * 60 - 30).sigmoid()
    threshold = float(rng.choice([0.5, 0.0, 0.05, 0.9]))
    for rle in masks_to_rle(probs, boxes, height, width, threshold):
        decoded = coco_mask.decode({**rle, "counts": rle["counts"].encode()})
        assert decoded.shape == (height, width)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--calls"]:
        calls(float(arguments[1]), int(arguments[2]))
        return 0
    seconds, seed = float(arguments[0]) if arguments else 3600.0, int(arguments[1]) if arguments[1:] else 0
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        return run_instrumented(Path(folder), seconds, seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
