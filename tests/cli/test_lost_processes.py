"""A process that loads data dies, or another process of the run: it is said in words, and no finished step is lost."""

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
from maskrcnn.training.distributed import World
from maskrcnn.training.learner import random_state
from tests.cli.test_train import a_run
from tests.training.test_run_dir import other_process

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
    step = train.Run._after_step

    def struck(self: train.Run, number: int, report: Any) -> bool:
        over = step(self, number, report)
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            kill_workers()
        return over

    monkeypatch.setattr(train.Run, "_after_step", struck)
    with pytest.raises(Interrupted, match=r"last\.pt holds step 3"):
        train.main([*tiny, "checkpoint.every=1000", "data.num_workers=1", f"run_dir={tmp_path}"])
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == 3


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
        assert signalled or "last.pt holds step 6; the same command goes on from there" in str(caught.value)
        times.append((tmp_path / "last.pt").stat().st_mtime_ns)
    assert times[0] == times[1]
    train.main(arguments)
    assert (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("tool", [evaluate, propose], ids=["eval", "propose"])
def test_the_tools_that_evaluate_say_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: Any
) -> None:
    monkeypatch.setattr(MaskRCNN, "detect", before(MaskRCNN.detect, kill_workers))
    settings = ["data.num_workers=1", "evaluation.batch_size=1", "threads=1"]
    with pytest.raises(UserError, match=DIED):
        tool.main([f"checkpoint={run / 'last.pt'}", f"run_dir={tmp_path}", *settings])


def after_five_steps(tiny: Sequence[str], tmp_path: Path, rank: int = 0) -> train.Run:
    """One of two processes."""
    run = a_run(tiny, tmp_path, World(rank, size=2), "model.backbone.norm=gn")
    run.step = 5
    return run


def lose_the_other(run: train.Run) -> str:
    """What the process says."""
    with pytest.raises(UserError, match="lost another one") as caught, run._in_words():
        raise RuntimeError("Connection closed by peer")
    return str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_lost_process_leaves_a_checkpoint_where_the_update_cannot_have_begun(
    tiny: Sequence[str], tmp_path: Path, device: str
) -> None:
    """On a GPU the update may be queued on gradients that were never whole."""
    run = after_five_steps(tiny, tmp_path)
    run.device = torch.device(device)
    words = lose_the_other(run)
    assert (tmp_path / "last.pt").exists() == (device == "cpu")
    assert ("last.pt holds step 5" in words) == (device == "cpu")
    assert ("begin anew" in words) == (device == "cpu")
    assert ("there is no checkpoint yet" in words) == (device == "cuda")


def test_a_lost_process_does_not_replace_a_checkpoint_that_knows_more(
    tiny: Sequence[str], tmp_path: Path
) -> None:
    """Lost in an evaluation: the checkpoint before it has the random states of both processes."""
    run = after_five_steps(tiny, tmp_path)
    run.files.save_last(run.keeper.content(5, None, [random_state(), random_state()]))
    assert "begin anew" not in lose_the_other(run)
    assert len(checkpoint.load(tmp_path / "last.pt")["random_states"]) == 2


@pytest.mark.parametrize("main_lives", [True, False])
def test_without_the_main_process_another_one_writes(
    tiny: Sequence[str], tmp_path: Path, main_lives: bool
) -> None:
    run = after_five_steps(tiny, tmp_path, rank=1)
    main, _ = other_process(tmp_path)
    if not main_lives:
        main.kill()
        main.wait()
    words = lose_the_other(run)
    assert ("unless another process" in words) == main_lives
    assert (tmp_path / "last.pt").exists() != main_lives
    assert ("last.pt holds step 5" in words) != main_lives
    main.communicate()


def test_a_lost_process_after_a_bad_loss_writes_no_checkpoint(tiny: Sequence[str], tmp_path: Path) -> None:
    """The fifth step made no update, which is known in the sixth: no checkpoint, but what shows the step again."""
    run = after_five_steps(tiny, tmp_path)
    losses, none = torch.tensor([torch.nan]), torch.zeros(())
    run.guard.note(losses)
    run.guard.watch(5, ["a"], losses, none, none, [])
    words = lose_the_other(run)
    assert "the loss is not finite at step 5" in words
    assert f"tools/replay.py step={tmp_path / 'failed_step_00000005.pt'}" in words
    assert (tmp_path / "failed_step_00000005.pt").exists()
    assert not (tmp_path / "last.pt").exists()
