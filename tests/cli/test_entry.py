"""How a command ends where the disk refuses, and where it is stopped."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from maskrcnn.cli.entry import _status

TOOL = Path(__file__).resolve().parents[2] / "tools/eval.py"  # which without arguments ends with status 2


def refusing(number: int) -> None:
    raise OSError(number, "No space left on device", "/disk/metrics.json")


def test_a_full_disk_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def full(arguments: Sequence[str]) -> None:
        refusing(errno.ENOSPC)

    assert _status(full, []) == 2
    assert capsys.readouterr().err.startswith("error: /disk/metrics.json: No space left on device")
    with pytest.raises(OSError, match="No space left"):
        _status(full, ["debug=true"])


def test_what_is_no_refusal_keeps_its_traceback() -> None:
    def broken(arguments: Sequence[str]) -> None:
        refusing(errno.ENOENT)

    with pytest.raises(FileNotFoundError):
        _status(broken, [])


def test_a_second_ctrl_c_ends_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(arguments: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert _status(stopped, []) == 130
    assert capsys.readouterr().err == "stopped at once; what was written before is kept\n"
    with pytest.raises(KeyboardInterrupt):
        _status(stopped, ["debug=true"])


def test_ctrl_c_while_torch_is_being_imported_is_no_traceback() -> None:
    # Python's own handler: what a shell starts in the background ignores SIGINT, and hands that down.
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while run.poll() is None and "libtorch" not in Path(f"/proc/{run.pid}/maps").read_text():
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    assert run.communicate()[1] == ""
    assert run.returncode == -signal.SIGINT
