"""The lock of a run's directory on file systems that have no locks, or that keep those of machines that are gone."""

from __future__ import annotations

import errno
import fcntl
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.engine import run_dir
from maskrcnn.engine.run_dir import RunDir
from maskrcnn.errors import UserError


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
