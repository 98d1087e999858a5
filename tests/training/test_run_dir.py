"""A run's directory: one process in it, and the checkpoint that a run resumes from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.errors import UserError
from maskrcnn.training import checkpoint
from maskrcnn.training.run_dir import RESUMABLE, RunDir

HOLDS = """
import sys
from pathlib import Path
from maskrcnn.training.run_dir import RunDir
files = RunDir(Path(sys.argv[1]))
files.lock()
print("locked", flush=True)
sys.stdin.read()
"""


def other_process(directory: Path) -> subprocess.Popen[str]:
    """One that holds the directory's lock."""
    command = [sys.executable, "-c", HOLDS, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "locked"
    return process


def test_a_directory_has_one_process_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    files = RunDir(tmp_path)
    assert files.owner() is None
    other = other_process(tmp_path)
    name = f"process {other.pid} on {socket.gethostname()}"
    assert files.owner() == name
    with pytest.raises(UserError, match=f"in use by {name}"):
        files.lock()
    other.kill()
    other.communicate()
    assert files.owner() is None
    files.lock()
    assert (tmp_path / "owner").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    files.unlock()


def test_a_folder_that_cannot_be_locked_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked"):
        RunDir(tmp_path).lock()


def content(step: int) -> dict[str, Any]:
    return {**{key: {} for key in RESUMABLE}, "step": step}


def test_what_is_kept_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    """Another process of the run wrote it."""
    files, writer = RunDir(tmp_path), RunDir(tmp_path)
    assert files.kept() == "there is no checkpoint yet; the same command starts again"
    for step in (3, 5):
        writer.save_last(content(step))
        assert files.kept() == f"last.pt holds step {step}; the same command resumes from there"
    (tmp_path / "last.pt").write_bytes(b"nothing")
    assert files.kept() == "step_00000003.pt holds step 3; the same command resumes from there"
    (tmp_path / "step_00000003.pt").unlink()
    assert files.kept() == f"no checkpoint in {tmp_path} can be read"


def test_the_checkpoint_before_the_last_is_kept(tmp_path: Path) -> None:
    files = RunDir(tmp_path)
    for step in (3, 4, 5):
        files.save_last(content(step))
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["last.pt", "step_00000004.pt"]
    assert checkpoint.load(tmp_path / "step_00000004.pt")["step"] == 4
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 5
