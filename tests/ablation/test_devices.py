"""Which GPUs the runs of a table use."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch

from maskrcnn.ablation.run import Processes
from maskrcnn.cli import ablate

# Waits for the other one, so that both run at once.
SAY = """
import os, sys, time
from pathlib import Path
here, there = map(Path, sys.argv[1:])
here.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while not there.exists():
    time.sleep(0.01)
"""


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four")
def test_every_gpu_has_a_run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ablate._shares(None, 1, 1) == (4, 1)
    assert ablate._shares(None, 1, 2) == (2, 1)
    assert ablate._devices(4, 1) == ["0", "1", "2", "3"]
    assert ablate._devices(2, 2) == ["0,1", "2,3"]
    assert ablate._devices(6, 1) == ["0", "1", "2", "3", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert ablate._devices(2, 1) == ["5", "7"]


@pytest.mark.usefixtures("four")
def test_a_device_that_was_asked_for_stays(tmp_path: Path) -> None:
    arguments = ["table=strides", f"out={tmp_path}", "report_only=true"]
    assert ablate.plan(arguments).runner.processes._devices is not None
    assert ablate.plan([*arguments, "device=cuda:1"]).runner.processes._devices is None


def test_the_cores_are_shared_by_all_processes_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("maskrcnn.training.session.cores", lambda: 16)
    assert ablate._shares(None, None, 1) == (2, 8)
    assert ablate._shares(2, None, 4) == (2, 2)
    assert ablate._devices(2, 1) == []


def test_commands_side_by_side_see_different_gpus(tmp_path: Path) -> None:
    processes = Processes(["0", "1"])
    files = [tmp_path / name for name in ("a", "b")]

    def call(here: Path, there: Path) -> None:
        with (tmp_path / "log").open("a") as log:
            assert processes.call([sys.executable, "-c", SAY, str(here), str(there)], log)

    both = [threading.Thread(target=call, args=pair) for pair in (files, files[::-1])]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(path.read_text() for path in files) == ["0", "1"]
