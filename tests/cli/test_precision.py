"""Precisions, compilation, determinism and memory of whole runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import train
from maskrcnn.training import checkpoint
from maskrcnn.training.guard import Report
from maskrcnn.training.run import Run
from tests.cli.test_survival import ROOT, TOOL, assert_same_bits, environment, weights
from tests.training.test_loop import resident_mib


def short(tiny: Sequence[str], steps: int = 4) -> list[str]:
    kept = [a for a in tiny if not a.startswith(("schedule.steps", "checkpoint.every"))]
    return [*kept, f"schedule.steps={steps}", "checkpoint.every=1000"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_train_and_weights_stay_float32(
    tiny: Sequence[str], run: Path, tmp_path: Path, precision: str
) -> None:
    train.main([*short(tiny, 6), f"precision={precision}", f"run_dir={tmp_path}"])
    content = checkpoint.load_model(tmp_path / "last.pt")
    model, exact = content["model"], weights(run)
    assert all(v.isfinite().all() for v in model.values())
    assert {v.dtype for v in model.values() if v.is_floating_point()} == {torch.float32}
    moved = [name for name, value in model.items() if not torch.equal(value, exact[name])]
    assert moved, "computed in float32 after all"
    assert (content["scaler"] == {}) == (precision == "bf16")
    for name, value in model.items():  # six steps of rate 1e-3 cannot take them far apart
        if value.is_floating_point() and "running" not in name:
            assert (value - exact[name]).abs().max() < 0.02, name


@pytest.mark.long
def test_a_compiled_run_learns_what_the_run_without_compiling_learns(
    tiny: Sequence[str], tmp_path: Path
) -> None:
    one, two = tmp_path / "plain", tmp_path / "compiled"
    arguments = [*short(tiny, 3), "precision=fp64", "model.backbone.norm=frozen_bn"]
    train.main([*arguments, f"run_dir={one}"])
    train.main([*arguments, "compile=true", f"run_dir={two}"])
    plain, compiled = weights(one), weights(two)
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.slow
def test_compiling_without_a_compiler_is_refused_before_the_first_step(
    tiny: Sequence[str], tmp_path: Path
) -> None:
    arguments = [*short(tiny), "compile=true", f"run_dir={tmp_path / 'run'}"]
    surroundings = {
        **environment(),
        "CXX": "/nowhere/c++",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, *TOOL[1:], *arguments], env=surroundings, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "error: compile=true: torch.compile does not work here (No working C++ compiler" in done.stderr
    assert "apt install g++" in done.stderr
    assert "Traceback" not in done.stderr
    assert "step 2/4" not in done.stdout


def peak(arguments: Sequence[str]) -> float:
    """GiB that a run of its own reports at its end, less what a process holds that has only begun."""
    code = "import maskrcnn.cli.train, maskrcnn.training.logging as t; print(t.peak_memory_mib() / 1024)"
    commands = ([sys.executable, "-c", code], [sys.executable, *TOOL[1:], *arguments])
    printed = []
    for command in commands:
        # One arena: how many of them malloc opens, and keeps, is chance.
        surroundings = {**environment(), "MALLOC_ARENA_MAX": "1"}
        done = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    return float(re.findall(r"peak memory (\S+) GiB", printed[1])[0]) - float(printed[0])


@pytest.mark.slow
def test_deterministic_twice_the_same_bits_and_hardly_more_memory(tmp_path: Path) -> None:
    """At a size where the activations are what takes memory: more than half a GiB beyond the process itself."""
    arguments = [
        f"data.root={tmp_path}",
        "data.source.num_train=16",
        "data.source.num_val=2",
        "data.source.image_size=256",
        "data.num_workers=0",
        "schedule.steps=3",
        "schedule.batch_size=8",
        "log.every=1",
        "log.images=0",
        "threads=2",
    ]
    usual = max(peak([*arguments, f"run_dir={tmp_path / name}"]) for name in ("usual", "again"))
    once, twice = (
        peak([*arguments, "deterministic=true", f"run_dir={tmp_path / name}"]) for name in ("once", "twice")
    )
    print(f"GiB beyond the process itself: {usual:.2f}; deterministic {once:.2f}, {twice:.2f}")
    assert usual > 0.5
    assert_same_bits(weights(tmp_path / "once"), weights(tmp_path / "twice"))
    assert max(once, twice) <= 1.2 * usual


@pytest.mark.long
def test_memory_is_flat_over_evaluations_checkpoints_and_workers(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least resident memory of 50 steps after the second evaluation, and of the last 50 of 800. In between are 14
    evaluations, 34 checkpoints and 85 epochs of two loading processes."""
    resident: list[float] = []
    after_step = Run._after_step

    def noted(run: Run, step: int, report: Report | None) -> bool:
        ends = after_step(run, step, report)
        resident.append(resident_mib())
        return ends

    monkeypatch.setattr(Run, "_after_step", noted)
    changed = ("schedule.steps", "checkpoint.every", "data.num_workers")
    kept = [a for a in tiny if not a.startswith(changed)]
    more = ["schedule.steps=800", "checkpoint.every=20", "data.num_workers=2", "evaluation.every=50"]
    train.main([*kept, *more, "log.images=4", f"run_dir={tmp_path}"])
    early, late = min(resident[100:150]), min(resident[-50:])
    print(f"resident memory of the steps 100 to 150, and of the last 50 of 800: {early:.0f}, {late:.0f} MiB")
    assert len(resident) == 800
    assert late - early < 20
