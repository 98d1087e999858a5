"""tools/benchmark.py: every suite runs, in small, and writes its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import detectors, train
from benchmarks.timing import Row
from benchmarks.train import Comparison
from maskrcnn.cli import benchmark
from maskrcnn.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "ops": ["channels=16", "repeats=1"],
    "device": ["channels=16", "repeats=1", "images=2", "boxes=16", "dtype=fp32", "device=cpu"],
    "infer": ["side=64", "repeats=1", "threads=1", "precisions=fp32"],
    "train": ["side=64", "batch=1", "repeats=1", "threads=1", "precisions=fp32"],
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SMALL)
def test_a_suite_writes_its_rows(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    # A process of its own: the suites change how memory is kept, and the number of threads.
    command = [sys.executable, "tools/benchmark.py", f"suite={suite}", f"out={out}", *SMALL[suite]]
    subprocess.run(command, check=True, cwd=ROOT)
    result = json.loads(out.read_text())
    assert result["machine"]["cores"] >= 1
    assert result["rows"]
    for row in result["rows"]:
        assert 0 < row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]
        text = out.with_suffix(".md").read_text()
        assert all(part in text for part in row["setting"].split(", "))
    if suite == "device":
        assert all(fact["backward_same_bits_twice"] for fact in result["facts"].values())
    if suite in (
        "infer",
        "train",
    ):  # the same weights on the same image: products of the same order (ours are padded)
        assert suite == "infer" or result["images_per_second"]["fp32"]["ours"] > 0
        work = {side: result["arithmetic"][side]["gflop"] for side in ("ours", "torchvision")}
        assert 0.3 < work["ours"] / work["torchvision"] < 3, work


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_gpu_measures_the_training_step_in_bf16_beside_both_of_torchvisions() -> None:
    both = [Comparison("bf16", "fp32", "2.5x"), Comparison("bf16", "fp16", "1.6x")]
    assert train.comparisons(CUDA, "", "") == both
    assert train.dimensions(CUDA, 0, 0) == (8, (800, 1333))
    assert train.comparisons(CPU, "", "") == [
        Comparison("fp32", "fp32", "1.5x"),
        Comparison("bf16", "fp32", "2.5x"),
    ]
    assert train.dimensions(CPU, 0, 0) == (2, (512, 512))
    assert train.comparisons(CPU, "bf16", "bf16") == [Comparison("bf16", "bf16", "1.6x")]
    assert train.dimensions(CUDA, 3, 64) == (3, (64, 64))
    variants = train.comparisons(CUDA, "bf16", "fp32,fp16", "compiled,graphs")
    assert [(c.name, c.goal) for c in variants] == [
        ("bf16 compiled", "2.5x"),
        ("bf16 compiled beside fp16", "1.6x"),
        ("bf16 graphs", "2.5x"),
        ("bf16 graphs beside fp16", "1.6x"),
    ]
    with pytest.raises(UserError, match="jit: of variants there are eager, compiled, graphs"):
        train.comparisons(CPU, "", "", "jit")
    with pytest.raises(UserError, match="variants=graphs captures CUDA graphs"):
        train.comparisons(CPU, "", "", "graphs")
    with pytest.raises(UserError, match="int8: of precisions there are fp32, bf16, fp16, fp64"):
        train.comparisons(CPU, "int8", "")


def test_images_a_second_come_from_the_time_of_a_step() -> None:
    row = Row("", "", "", [2.0], ours_ms=250.0, peer_ms=500.0)
    assert train.images_per_second(row, 8) == {"ours": 32.0, "torchvision": 16.0}


@pytest.mark.slow
def test_torchvisions_step_casts_as_its_amp_does(tmp_path: Path) -> None:
    """On images that our batch pads and torchvision gets as they are."""
    torch.set_num_threads(1)
    batch = detectors.pictures(str(tmp_path), 1, (64, 90))
    assert batch.images.pixels.shape[2:] == (64, 96)
    _, peer = detectors.pair(batch, regions=32)
    images = detectors.for_torchvision(batch)[0]
    assert [tuple(image.shape) for image in images] == [(3, 64, 90)]
    assert peer.transform(images)[0].image_sizes == [(64, 90)]
    seen: list[torch.dtype] = []
    peer.roi_heads.box_head.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    weight = peer.roi_heads.box_head.fc6.weight
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        before, step = weight.detach().clone(), train.their_step(peer, batch, CPU, precision)  # type: ignore[arg-type]
        losses = step()
        assert seen.pop() == dtype
        assert weight.dtype == torch.float32
        assert not torch.equal(weight, before)
        assert all(torch.as_tensor(value).isfinite() for value in losses.values())


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(UserError, match="suite=speed: give one of data, device, infer, ops, predict, train"):
        benchmark.main(["suite=speed"])
