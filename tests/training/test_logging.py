"""What a run says of itself."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from maskrcnn.errors import UserError
from maskrcnn.training import logging as logs
from maskrcnn.training.logging import RunLog, peak_memory_mib
from maskrcnn.training.settings import Log

SAY = "from maskrcnn.training.logging import peak_memory_mib; print(peak_memory_mib())"


@pytest.mark.slow
def test_the_memory_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    def said() -> float:
        return float(subprocess.run([sys.executable, "-c", SAY], check=True, capture_output=True).stdout)

    alone = said()
    held = bytearray(2**30)
    held[::4096] = b"\1" * len(held[::4096])
    assert peak_memory_mib() > 1024
    assert abs(said() - alone) < 100


class Clock:
    """Stands for the module `time`: it goes on when told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def scalars(folder: Path, tag: str) -> list[float]:
    found = EventAccumulator(str(folder)).Reload()
    return [event.value for event in found.Scalars(tag)]


def end_step(log: RunLog, step: int, model: nn.Module | None = None) -> None:
    losses = {"loss_a": torch.tensor(1.5), "loss_b": torch.tensor(0.5)}
    log.step(step, losses, torch.tensor(2.0), 0.1, nn.Module() if model is None else model)


def test_rates_and_the_time_left_count_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 8 images that wait 1 s and take 4 s with it; evaluations and checkpoints of 100 s after each."""
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    with RunLog(tmp_path, 0, 6, 8, Log(every=2)) as log:
        clock.now += 100
        for step in range(1, 7):
            with log.waiting():
                clock.now += 1
            clock.now += 3
            end_step(log, step)
            clock.now += 100
    assert scalars(tmp_path, "speed/images_per_second") == pytest.approx([2, 2, 2])
    assert scalars(tmp_path, "speed/data_wait_share") == pytest.approx([0.25, 0.25, 0.25])
    first, second, _ = capsys.readouterr().out.splitlines()
    assert "2.0 img/s, data 25%" in first
    assert "0:16 of training left" in first
    assert "0:08 of training left" in second


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("gradient", "drawn"),
    [([1.0, 2.0, -3.0], 3), ([NAN, 2.0, INF], 1), ([NAN, -INF, NAN], 0), ([1e30, -1e35, 1e20], 0)],
)
def test_histograms_hold_what_is_finite(tmp_path: Path, gradient: list[float], drawn: int) -> None:
    model = nn.ModuleDict({"head": nn.Linear(3, 1, bias=False), "frozen": nn.Linear(2, 2)})
    model["head"].weight.grad = torch.tensor([gradient])
    with RunLog(tmp_path, 0, 2, 1, Log(histograms=2)) as log:
        for step in (1, 2):
            end_step(log, step, model)
    found = EventAccumulator(str(tmp_path)).Reload()
    tags = {"weights/head": 3} | ({"gradients/head": drawn} if drawn else {})
    assert set(found.Tags()["histograms"]) == tags.keys()
    for tag, number in tags.items():
        (event,) = found.Histograms(tag)
        assert (event.step, event.histogram_value.num) == (2, number)


@pytest.mark.parametrize(
    ("start", "steps", "traced"),
    [(0, 20, range(10, 13)), (0, 5, range(2, 5)), (0, 3, range(3)), (5, 7, range(2)), (3, 3, None)],
)
@pytest.mark.filterwarnings("ignore:Profiler won't be using warmup")
def test_a_trace_holds_the_steps_asked_for_or_the_last_ones(
    tmp_path: Path, start: int, steps: int, traced: range | None
) -> None:
    """Three steps, counted from where the run starts; the first ones are warm-up where there are enough."""
    with RunLog(tmp_path, start, steps, 1, Log(profile=3)) as log:
        for step in range(start, steps):
            torch.ones(3).sum()
            end_step(log, step + 1)
    trace = tmp_path / "trace.json"
    assert trace.exists() == (traced is not None)
    if traced is not None:
        names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
        assert "aten::sum" in names
        assert {n for n in names if "ProfilerStep" in str(n)} == {f"ProfilerStep#{i}" for i in traced}


class FakeWandb(ModuleType):
    """What this project uses of wandb; keeps what it is given."""

    def __init__(self, refusal: Exception | None = None) -> None:
        super().__init__("wandb")
        self.refusal, self.started, self.logged, self.finished = refusal, [], [], 0  # type: ignore[var-annotated]
        self.Image = self.Histogram = lambda values: ("drawn", values.shape)

    def init(self, **settings: Any) -> FakeWandb:
        if self.refusal is not None:
            raise self.refusal
        self.started.append(settings)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_receives_settings_figures_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on is the same run there."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "config.yaml").write_text("schedule: {lr: 0.5}\nseed: 3\n")
    model = nn.ModuleDict({"head": nn.Linear(3, 1, bias=False)})
    model["head"].weight.grad = torch.ones(1, 3)
    for start in (0, 1):
        with RunLog(tmp_path, start, 2, 1, Log(every=1, histograms=1, wandb="cells")) as log:
            end_step(log, start + 1, model)
            log.metrics(start + 1, {"segm": {"AP": 12.5, "APs": None}})
            log.picture(start + 1, "found", np.zeros((4, 5, 3), np.uint8))
    first, second = fake.started
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("cells", tmp_path.name, "allow")
    assert first["config"] == {"schedule": {"lr": 0.5}, "seed": 3}
    for step in (1, 2):
        logged = {name: value for at, one in fake.logged if at == step for name, value in one.items()}
        assert (logged["loss/total"], logged["schedule/lr"], logged["segm/AP"]) == (2.0, 0.1, 12.5)
        assert "segm/APs" not in logged
        assert (logged["gradients/head"], logged["found"]) == (("drawn", (3,)), ("drawn", (4, 5, 3)))
    assert fake.finished == 2


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (
            FakeWandb(RuntimeError("api_key not configured")),
            r"RuntimeError: api_key not configured.*WANDB_MODE",
        ),
        (None, r"log\.wandb=cells needs wandb: pip install 'maskrcnn\[wandb\]'"),
    ],
)
def test_wandb_that_cannot_start_is_answered_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeWandb | None, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(UserError, match=words):
        RunLog(tmp_path, 0, 2, 1, Log(wandb="cells"))
