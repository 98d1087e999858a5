"""A process that loads data dies: the error says so, and no finished step is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.cli import eval as evaluate
from maskrcnn.cli import propose, train
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.training import checkpoint, loop
from maskrcnn.training.run import Run

DIED = "a process that loads data died"


def kill_workers() -> None:
    """Returns once the process has been told."""
    children = multiprocessing.active_children()
    assert children
    for child in children:
        os.kill(child.pid or 0, signal.SIGKILL)
    end = time.monotonic() + 5
    while any(child.is_alive() for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.05)


def before(function: Callable[..., Any], act: Callable[[], None]) -> Callable[..., Any]:
    """``function``, the first call of which comes after ``act``."""
    todo = [act]

    def wrapped(*arguments: Any, **settings: Any) -> Any:
        while todo:
            todo.pop()()
        return function(*arguments, **settings)

    return wrapped


def after_calls(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Acts at the call of this number."""
    calls: list[int] = []

    def count() -> None:
        calls.append(1)
        if len(calls) == number:
            act()

    return count


@pytest.mark.parametrize("signalled", [False, True])
@pytest.mark.slow
def test_within_a_step_the_step_is_finished_and_kept(
    run: Path, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: bool
) -> None:
    """Killed in the third of six steps, which no periodic checkpoint would keep; resumed to the same bits."""
    arguments = [*tiny, "checkpoint.every=1000", f"run_dir={tmp_path}"]
    update = loop._update

    def strike() -> None:
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        kill_workers()

    third = after_calls(3, strike)

    def struck(*given: Any) -> torch.Tensor:
        third()
        return update(*given)

    monkeypatch.setattr(loop, "_update", struck)
    error, words = (Interrupted, "saved at step 3") if signalled else (UserError, "last.pt holds step 3")
    with pytest.raises(error, match=words) as caught:
        train.main([*arguments, "data.num_workers=1"])
    assert (DIED in str(caught.value)) != signalled
    monkeypatch.undo()
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == 3
    train.main(arguments)
    whole, resumed = (checkpoint.load_model(d / "last.pt")["model"] for d in (run, tmp_path))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_after_a_signal_that_came_while_a_batch_was_waited_for(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers end some time after the signal; the run must not end without its third step."""
    step = Run._after_step

    def struck(self: Run, number: int, report: Any) -> bool:
        over = step(self, number, report)
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            kill_workers()
        return over

    monkeypatch.setattr(Run, "_after_step", struck)
    with pytest.raises(Interrupted, match=r"last\.pt holds step 3"):
        train.main([*tiny, "checkpoint.every=1000", "data.num_workers=1", f"run_dir={tmp_path}"])
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [False, True])
def test_while_evaluating_the_last_step_is_what_the_run_goes_on_from(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: bool
) -> None:
    """In the evaluation after training, and in the one that the same command then begins with."""
    arguments = [*tiny, "data.num_workers=1", "evaluation.batch_size=1", f"run_dir={tmp_path}"]
    times = []
    for _ in range(2):

        def strike() -> None:
            kill_workers()
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(MaskRCNN, "detect", before(MaskRCNN.detect, strike))
            with pytest.raises(Interrupted if signalled else UserError) as caught:
                train.main(arguments)
        assert signalled or f"{DIED}" in str(caught.value)
        assert signalled or "last.pt holds step 6; the same command resumes from there" in str(caught.value)
        times.append((tmp_path / "last.pt").stat().st_mtime_ns)
    assert times[0] == times[1]
    train.main(arguments)
    assert (tmp_path / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tool", [evaluate, propose], ids=["eval", "propose"])
def test_the_tools_that_evaluate_say_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: Any
) -> None:
    monkeypatch.setattr(MaskRCNN, "detect", before(MaskRCNN.detect, kill_workers))
    settings = ["data.num_workers=1", "evaluation.batch_size=1", "threads=1"]
    with pytest.raises(UserError, match=DIED):
        tool.main([f"checkpoint={run / 'last.pt'}", f"run_dir={tmp_path}", *settings])
