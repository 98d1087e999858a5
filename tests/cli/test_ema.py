"""Averaged weights: what they are, that they are what is evaluated and started from, and that they survive a stop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.cli import train
from maskrcnn.config import build as assembly
from maskrcnn.training import checkpoint
from maskrcnn.training.initialise import initialise
from tests.cli.test_survival import assert_same_bits

DECAY = 0.6


@pytest.fixture(scope="module")
def averaged(tiny: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A run of six steps that keeps a checkpoint of each."""
    kept = [a for a in tiny if not a.startswith("checkpoint.every")]
    arguments = [
        *kept,
        f"schedule.ema={DECAY}",
        "checkpoint.every=1",
        "checkpoint.keep=9",
        "deterministic=true",
    ]
    directory = tmp_path_factory.mktemp("ema")
    train.main([*arguments, f"run_dir={directory}"])
    torch.use_deterministic_algorithms(False)
    return arguments, directory


def checkpoints(directory: Path) -> list[dict[str, Any]]:
    """Of the steps 1 to 6."""
    paths = [*(directory / f"step_{step:08d}.pt" for step in range(1, 6)), directory / "last.pt"]
    return [checkpoint.load_model(path, ("model", "ema")) for path in paths]


@pytest.mark.slow
def test_every_step_takes_its_share_of_the_new_weights(averaged: tuple[list[str], Path]) -> None:
    steps = checkpoints(averaged[1])
    for before, after in pairwise(steps):
        for name, value in after["ema"].items():
            if "running" in name or not value.is_floating_point():
                assert torch.equal(value, after["model"][name]), name
            else:
                expected = DECAY * before["ema"][name] + (1 - DECAY) * after["model"][name]
                torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(v, steps[-1]["model"][n]) for n, v in steps[-1]["ema"].items())


@pytest.mark.slow
def test_the_averaged_weights_are_what_is_evaluated_and_what_a_new_run_starts_from(
    averaged: tuple[list[str], Path],
) -> None:
    best = averaged[1] / "best.pt"
    kept = checkpoint.load_model(best, ("ema",))["ema"]
    _, model, _ = assembly.load_trained(str(best))
    assert_same_bits(model.state_dict(), kept)
    for parameter in model.parameters():
        parameter.data.zero_()
    initialise(model, best, reset_heads=False)
    assert_same_bits(model.state_dict(), kept)


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_average_of_one_that_never_stopped(
    averaged: tuple[list[str], Path], tmp_path: Path
) -> None:
    arguments, whole = averaged
    (tmp_path / "last.pt").write_bytes((whole / "step_00000003.pt").read_bytes())
    train.main([*arguments, f"run_dir={tmp_path}"])
    torch.use_deterministic_algorithms(False)
    ours, theirs = (checkpoint.load_model(path / "last.pt", ("ema",))["ema"] for path in (tmp_path, whole))
    assert_same_bits(ours, theirs)
