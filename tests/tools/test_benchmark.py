"""tools/benchmark.py: every suite runs, in small, and writes its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn.ablation.cell import TOOLS
from maskrcnn.commands import benchmark
from maskrcnn.errors import UserError

SMALL = {
    "ops": ["channels=16", "repeats=1"],
    "device": ["channels=16", "repeats=1", "images=2", "boxes=16", "dtype=fp32", "device=cpu"],
    "infer": ["side=64", "repeats=1", "threads=1"],
    "train": ["side=64", "batch=1", "repeats=1", "threads=1", "precisions=fp32"],
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SMALL)
def test_a_suite_writes_its_rows(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    # A process of its own: the suites change how memory is kept, and the number of threads.
    command = [sys.executable, str(TOOLS / "benchmark.py"), f"suite={suite}", f"out={out}", *SMALL[suite]]
    subprocess.run(command, check=True, cwd=TOOLS.parent)
    result = json.loads(out.read_text())
    assert result["machine"]["cores"] >= 1
    assert result["rows"]
    for row in result["rows"]:
        assert 0 < row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]
        assert row["setting"] in out.with_suffix(".md").read_text()
    if suite == "device":
        assert all(fact["backward_same_bits_twice"] for fact in result["facts"].values())
    if suite in (
        "infer",
        "train",
    ):  # the same weights on the same image: products of the same order (ours are padded)
        work = {side: result["arithmetic"][side]["gflop"] for side in ("ours", "torchvision")}
        assert 0.3 < work["ours"] / work["torchvision"] < 3, work


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(UserError, match="suite=speed: give one of data, device, infer, ops, predict, train"):
        benchmark.main(["suite=speed"])
