"""Runs that are killed, stopped or damaged, as separate processes: nothing is lost, nothing changes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import replay, train
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.training import checkpoint
from maskrcnn.training.distributed import World
from maskrcnn.training.interruption import Interruption
from maskrcnn.training.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, str(ROOT / "tools" / "train.py")]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "ops"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TOOL, *arguments],
        env=environment(),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """Read what the process prints up to a line that matches."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"the process ended ({process.wait()}) without printing {pattern}")


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = checkpoint.load_model(run_dir / "last.pt")["model"]
    return model


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def long(tiny: Sequence[str]) -> list[str]:
    """A run of 30 steps that reports each of them and saves every fourth, an epoch being 8."""
    changed = ("schedule.steps", "checkpoint.every", "log.every")
    kept = [a for a in tiny if not a.startswith(changed)]
    return [*kept, "schedule.steps=30", "checkpoint.every=4", "log.every=1", "deterministic=true"]


@pytest.fixture(scope="module")
def uninterrupted(long: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    train.main([*long, f"run_dir={directory}"])
    torch.use_deterministic_algorithms(False)
    return directory


@pytest.mark.long
def test_killed_ten_times_the_weights_are_the_same_bits(
    long: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    dice = random.Random(0)
    done, kills = 0, 0
    while kills < 10:
        process = start([*long, f"run_dir={tmp_path}", "data.num_workers=1", "schedule.steps=30"])
        aim = min(done + dice.randint(1, 5), 29)
        wait_for(process, rf"^step {aim}/30 ")
        time.sleep(dice.random() * 0.3)  # within a step, or while a checkpoint is written
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kills += 1
        done = checkpoint.load_model(tmp_path / "last.pt")["step"] if (tmp_path / "last.pt").exists() else 0
    last = start([*long, f"run_dir={tmp_path}"])
    assert last.communicate()[0].count("resuming from step") == 1
    assert last.returncode == 0
    assert_same_bits(weights(uninterrupted), weights(tmp_path))
    assert (tmp_path / "metrics.json").read_text() == (uninterrupted / "metrics.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_saves_and_exits_75(
    long: list[str], uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = [*long, f"run_dir={tmp_path}", "data.num_workers=1", "checkpoint.every=1000"]
    process = start(arguments)
    wait_for(process, r"^step 7/30 ")
    os.killpg(process.pid, number)  # as a terminal and a batch system do: the loader's processes too
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 75
    seen = [int(step) for step in re.findall(r"^step (\d+)/30 ", printed, re.M)] or [7]
    saved = checkpoint.load_model(tmp_path / "last.pt")["step"]
    assert saved == max(seen)  # no step lost
    assert f"interrupted: saved at step {saved} of 30" in printed
    again = start(arguments)
    assert f"resuming from step {saved} of 30" in again.communicate()[0]
    assert again.returncode == 0
    assert_same_bits(weights(uninterrupted), weights(tmp_path))


@pytest.mark.slow
def test_two_runs_do_not_share_a_directory_and_a_dead_ones_lock_is_none(
    long: list[str], tmp_path: Path
) -> None:
    first = start([*long, f"run_dir={tmp_path}", "schedule.steps=100000"])
    wait_for(first, r"^step 2/")
    second = subprocess.run(
        [*TOOL, *long, f"run_dir={tmp_path}"], env=environment(), cwd=ROOT, capture_output=True, text=True
    )
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    first.kill()
    first.wait()
    files = RunDir(tmp_path)
    files.lock()
    files.unlock()


@pytest.mark.slow
def test_a_lost_loader_process_is_told_and_the_run_goes_on_from_its_checkpoint(
    long: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    arguments = [*long, f"run_dir={tmp_path}", "data.num_workers=1", "checkpoint.every=1000"]
    process = start(arguments)
    wait_for(process, r"^step 6/30 ")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    worker = next(pid for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 2, printed
    assert "a process that loads data died" in printed
    assert "Traceback" not in printed
    seen = [int(step) for step in re.findall(r"^step (\d+)/30 ", printed, re.M)] or [6]
    assert f"last.pt holds step {max(seen)}" in printed  # no step lost
    again = start(arguments)
    assert f"resuming from step {max(seen)} of 30" in again.communicate()[0]
    assert_same_bits(weights(uninterrupted), weights(tmp_path))


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tiny: Sequence[str], tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints at steps 2, 4, 6 with one kept beside the last: the damaged 6 is redone from 4, to the same bits."""
    train.main([*tiny, f"run_dir={tmp_path}"])
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["best.pt", "last.pt", "step_00000004.pt"]
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last.pt").write_bytes(content)
    (tmp_path / "metrics.json").unlink()
    capsys.readouterr()
    train.main([*tiny, f"run_dir={tmp_path}"])
    printed = capsys.readouterr().out
    assert "last.pt cannot be read: it is damaged" in printed
    assert "resuming from step_00000004.pt instead" in printed
    assert "resuming from step 4 of 6" in printed
    assert_same_bits(weights(run), weights(tmp_path))


def test_when_all_checkpoints_are_damaged_the_run_does_not_start_over(
    tiny: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "last.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"(?s)last\.pt cannot be read.*no checkpoint is left to resume from"):
        train.main([*tiny, f"run_dir={tmp_path}"])


def test_a_run_of_which_only_the_best_is_left_is_not_written_over(
    tiny: Sequence[str], tmp_path: Path, run: Path
) -> None:
    (tmp_path / "best.pt").write_bytes((run / "best.pt").read_bytes())
    with pytest.raises(UserError, match=r"holds best\.pt and no last\.pt .*init=.*best\.pt"):
        train.main([*tiny, f"run_dir={tmp_path}"])
    assert (tmp_path / "best.pt").read_bytes() == (run / "best.pt").read_bytes()


def test_the_first_ctrl_c_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for rank, words in (("0", "stopping after this step; Ctrl-C again stops at once"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        interruption = Interruption("stopping after this step")
        with interruption.watched():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested
        assert capfd.readouterr().err.strip() == words


def test_a_full_disk_ends_in_words_with_the_former_checkpoint_whole(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full_disk(content: dict[str, object], file: object) -> None:
        if content["step"] == 4:
            file.write(b"half a file")  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device")
        save(content, file)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(
        UserError, match=r"last\.pt cannot be written at step 4: .*No space left.*still whole"
    ):
        train.main([*tiny, f"run_dir={tmp_path}"])
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == 2
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def failing(tiny: Sequence[str], tmp_path: Path, *changes: str) -> tuple[str, Path]:
    """Train with a learning rate that no model survives; the message, and the file it names."""
    with pytest.raises(UserError) as caught:
        train.main([*tiny, "schedule.lr=1e6", "schedule.warmup_steps=0", *changes, f"run_dir={tmp_path}"])
    message = str(caught.value)
    return message, Path(re.findall(r"tools/replay\.py step=(\S+)", message)[0])


@pytest.mark.slow
def test_a_best_checkpoint_that_could_not_be_written_is_made_by_the_same_command(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures are written before best.pt; that they are there does not mean that the evaluation was finished."""
    write = RunDir.save_best

    def full_disk(files: RunDir, content: dict[str, object]) -> None:
        raise UserError("best.pt cannot be written")

    monkeypatch.setattr(RunDir, "save_best", full_disk)
    with pytest.raises(UserError, match=r"best\.pt cannot be written"):
        train.main([*tiny, f"run_dir={tmp_path}"])
    assert (tmp_path / "metrics.json").exists()
    monkeypatch.setattr(RunDir, "save_best", write)
    train.main([*tiny, f"run_dir={tmp_path}"])
    assert checkpoint.load_model(tmp_path / "best.pt")["step"] == 6


@pytest.mark.slow
def test_an_evaluated_run_without_its_last_checkpoint_goes_on_from_the_one_before(
    tiny: Sequence[str], tmp_path: Path, run: Path
) -> None:
    train.main([*tiny, "evaluation.every=2", f"run_dir={tmp_path}"])
    (tmp_path / "last.pt").unlink()
    train.main([*tiny, "evaluation.every=2", f"run_dir={tmp_path}"])
    assert_same_bits(weights(run), weights(tmp_path))


@pytest.mark.slow
def test_another_processes_wish_to_stop_ends_an_evaluation_everywhere(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has all of its images, another one stopped early: both leave with what was saved before."""

    def gather(world: World, value: dict[str, object]) -> list[object]:
        return [value] if "torch" in value else [value, None]  # random states; results of the evaluation

    monkeypatch.setattr(World, "gather", gather)
    with pytest.raises(Interrupted, match="while evaluating"):
        train.main([*tiny, f"run_dir={tmp_path}"])
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == 6
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([], id="fp32"),
        pytest.param(["precision=bf16"], id="bf16", marks=pytest.mark.slow),
        pytest.param(["accumulate=2"], id="parts", marks=pytest.mark.slow),
    ],
)
def test_a_loss_gone_wrong_stops_the_run_and_is_replayed(
    tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str]
) -> None:
    message, kept = failing(tiny, tmp_path, *changes)
    found = re.search(
        r"the loss (is not finite|has diverged).* at step (\d+) \((.*); gradient.*images \[(.*)\]\)", message
    )
    assert found is not None, message
    content = torch.load(kept, weights_only=False)
    assert content["step"] == int(found[2])
    images = [i for part in content["batch"] for i in part.image_ids]
    assert images == [int(i) for i in found[4].split(", ")]
    assert len(images) == 2
    # The updates of and after the bad step were not made.
    assert all(value.isfinite().all() for value in content["model"].values())
    capsys.readouterr()
    replay.main([f"step={kept}", "threads=1"])
    printed = capsys.readouterr().out
    for name, value in content["losses"].items():
        line = re.search(rf"{name}: (\S+) in the run, (\S+) now", printed)
        assert line is not None, printed
        assert line[1] == line[2] == f"{value:.6g}"


def test_a_failed_step_executes_no_code(tiny: Sequence[str], tmp_path: Path) -> None:
    _, kept = failing(tiny, tmp_path)
    content = torch.load(kept, weights_only=False)
    content["config"]["model"]["backbone"] = {"_target_": "os.mkdir", "path": str(tmp_path / "was_here")}
    checkpoint.save(kept, content)
    with pytest.raises(UserError, match=r"would call os\.mkdir"):
        replay.main([f"step={kept}"])
    assert not (tmp_path / "was_here").exists()


@pytest.mark.slow
def test_patience_ends_training_after_evaluations_that_are_no_better(
    tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *tiny,
        "schedule.lr=0.0",
        "model.backbone.norm=gn",  # batch norm's statistics would change without any learning
        "evaluation.every=1",
        "evaluation.patience=2",
        f"run_dir={tmp_path}",
    ]
    train.main(arguments)
    assert "no improvement since step 1: training ends at step 3" in capsys.readouterr().out
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == 3
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    train.main(arguments)  # it stays ended
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == 3
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
