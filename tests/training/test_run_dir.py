"""The lock of a run's directory on file systems that have no locks, or that keep those of machines that are gone."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.errors import Interrupted, UserError
from maskrcnn.training import checkpoint, run_dir
from maskrcnn.training.run_dir import RESUMABLE, RunDir


def refusing(number: int, times: int, calls: list[int]) -> Callable[..., None]:
    """``lockf`` of a file system that refuses so many times."""

    def lockf(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) <= times:
            raise OSError(number, "refused")

    return lockf


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fcntl, "lockf", refusing(number, 1, []))
    RunDir(tmp_path).lock()
    assert "without locks" in " ".join(capsys.readouterr().out.split())


def test_another_error_ends_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", refusing(errno.EIO, 1, []))
    with pytest.raises(UserError, match=r"cannot be locked: .*refused"):
        RunDir(tmp_path).lock()


@pytest.mark.parametrize(("times", "lease", "enters"), [(4, 120.0, True), (10**6, 30.0, False)])
def test_the_lock_of_another_machine_is_waited_for(
    times: int, lease: float, enters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, calls = [0.0], list[int]()
    monkeypatch.setattr(run_dir.time, "sleep", lambda seconds: clock.append(clock[-1] + seconds))
    monkeypatch.setattr(run_dir.time, "monotonic", lambda: clock[-1])
    monkeypatch.setattr(run_dir, "LEASE", lease)
    monkeypatch.setattr(fcntl, "lockf", refusing(errno.EAGAIN, times, calls))
    (tmp_path / "lock").write_text("process 7 on another.machine")
    if enters:
        RunDir(tmp_path).lock()
        assert len(calls) == times + 1
        assert (tmp_path / "lock").read_text().endswith(f"on {socket.gethostname()}")
    else:
        with pytest.raises(UserError, match=r"in use by process 7 on another\.machine"):
            RunDir(tmp_path).lock()
        assert clock[-1] == pytest.approx(lease, abs=5)


def test_a_lock_of_this_machine_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(fcntl, "lockf", refusing(errno.EACCES, 10**6, calls))
    (tmp_path / "lock").write_text(f"process 7 on {socket.gethostname()}")
    with pytest.raises(UserError, match="in use by process 7"):
        RunDir(tmp_path).lock()
    assert len(calls) == 1


def test_a_signal_ends_the_wait_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(run_dir.time, "sleep", waited.append)
    monkeypatch.setattr(fcntl, "lockf", refusing(errno.EAGAIN, 10**6, []))
    (tmp_path / "lock").write_text("process 7 on another.machine")
    with pytest.raises(Interrupted, match=r"in use by process 7 on another\.machine"):
        RunDir(tmp_path).lock(lambda: sum(waited) >= 3)
    assert sum(waited) < 10


def content(step: int) -> dict[str, Any]:
    return {**{key: {} for key in RESUMABLE}, "step": step}


def test_what_is_kept_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    """Another process of the run wrote it."""
    files, writer = RunDir(tmp_path), RunDir(tmp_path)
    assert files.kept() == "there is no checkpoint yet; the same command starts anew"
    for step in (3, 5):
        writer.save_last(content(step))
        assert files.kept() == f"last.pt holds step {step}; the same command goes on from there"
    (tmp_path / "last.pt").write_bytes(b"nothing")
    assert files.kept() == "step_00000003.pt holds step 3; the same command goes on from there"
    (tmp_path / "step_00000003.pt").unlink()
    assert files.kept() == f"no checkpoint in {tmp_path} can be read"


LOCKS = """
import fcntl, os, socket, sys
file = open(sys.argv[1], "a")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.truncate(0)
    print(f"process {os.getpid()} on {socket.gethostname()}", end="", file=file, flush=True)
    print("locked", flush=True)
except OSError:
    print("refused", flush=True)
sys.stdin.read()
"""


def other_process(directory: Path) -> tuple[subprocess.Popen[str], str]:
    """One that tries to lock the directory, and how that went."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKS, str(directory / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_of_those_left_one_takes_over_from_a_process_that_is_gone(tmp_path: Path) -> None:
    main, answer = other_process(tmp_path)
    assert answer == "locked"
    left = RunDir(tmp_path)
    assert not left.take_over()
    main.kill()
    main.communicate()
    assert left.take_over()
    another, answer = other_process(tmp_path)
    another.communicate()
    assert answer == "refused"
    left.unlock()
    assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on")


def test_without_locks_nobody_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not RunDir(tmp_path / "not_here").take_over()
    (tmp_path / "lock").write_text(f"process 7 on {socket.gethostname()}")
    monkeypatch.setattr(fcntl, "lockf", refusing(errno.ENOSYS, 1, []))
    assert not RunDir(tmp_path).take_over()


def test_nobody_takes_over_from_another_machine(tmp_path: Path) -> None:
    """Where a mount knows the locks of its own machine alone, the main process may live."""
    (tmp_path / "lock").write_text("process 7 on another.machine")
    assert not RunDir(tmp_path).take_over()
    assert (tmp_path / "lock").read_text() == "process 7 on another.machine"


def test_who_takes_over_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    RunDir(tmp_path).save_last(content(3))
    (tmp_path / "lock").write_text(f"process 7 on {socket.gethostname()}")
    files = RunDir(tmp_path)
    assert files.take_over()
    files.save_last(content(4))
    files.unlock()
    assert checkpoint.load(tmp_path / "step_00000003.pt")["step"] == 3
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 4
