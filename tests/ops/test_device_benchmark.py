"""benchmarks/device.py, which machines with a GPU and little else are to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import device as suite
from benchmarks.timing import device_of
from maskrcnn.errors import UserError

RUN = """
import json, sys
sys.modules |= dict.fromkeys(("pycocotools", "hydra", "omegaconf", "rich", "cv2", "tensorboard", "scipy"))
from benchmarks.device import run
print(json.dumps(run(repeats=1, images=1, channels=8, dtype="bf16", device="cpu", boxes=4)["rows"]))
"""


@pytest.mark.slow
def test_needs_torch_and_torchvision_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('"roi_align backward"') == 4
    assert "torchvision, in float32 as under autocast" in done.stdout


def test_a_reference_is_not_measured_for_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = suite.kernels.Kernels("cuda", False, "not compiled for this device (sm_70)")
    monkeypatch.setattr(suite.kernels, "CUDA", missing)
    monkeypatch.setattr(suite, "device_of", torch.device)
    with pytest.raises(UserError, match="do not run here: not compiled for this device \\(sm_70\\)"):
        suite.run(device="cuda")


def test_a_device_that_is_not_there_is_refused_in_words() -> None:
    assert device_of("cpu") == torch.device("cpu")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device={name} cannot be used"):
            device_of(name)
