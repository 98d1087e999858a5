"""How a command ends where the disk refuses, and where it is stopped."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import benchmark, doctor, entry
from maskrcnn.cli.entry import _status
from maskrcnn.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/train.py"


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


def called(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """The status of `maskrcnn` with these arguments; None is success."""
    monkeypatch.setattr(sys, "argv", ["maskrcnn", *arguments])
    try:
        entry.main()
    except SystemExit as ended:
        return ended.code
    return None


def test_help_has_a_line_for_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(["--help"], monkeypatch) is None
    printed = capsys.readouterr().out
    for tool in (ROOT / "tools").glob("*.py"):
        name = tool.stem.replace("_", "-")
        assert f"\n  {name} " in printed
        assert entry.commands()[name].splitlines()[0] in printed
        assert f'run_tool("{name}")' in tool.read_text()


@pytest.mark.parametrize(
    ("given", "meant"), [("trian", "train"), ("check_data", "check-data"), ("doktor", "doctor")]
)
def test_an_unknown_command_is_answered_with_the_nearest(
    given: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called([given, "seed=1"], monkeypatch) == 2
    assert f"no command '{given}'; did you mean {meant}?" in capsys.readouterr().err


def test_the_version_is_that_of_the_project(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(["--version"], monkeypatch) is None
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"maskrcnn {version}\n"


def test_the_doctor_names_every_extra_that_a_program_looks_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(doctor.EXTRAS.values()) == set(extras)
    report = doctor.lines()
    assert len(report) == 10
    assert torch.__version__ in report[3]
    with pytest.raises(UserError, match="no arguments"):
        doctor.main(["now"])


def test_benchmarks_need_a_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmark, "SUITES", tmp_path)
    with pytest.raises(UserError, match="use a clone"):
        benchmark.main(["suite=ops"])


COMPLETE = """
source <(cat {script})
COMP_WORDS=({words}); COMP_CWORD={at}
_maskrcnn
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "at", "found"),
    [
        ("maskrcnn tr", 1, "train"),
        ("maskrcnn train roi_op = al", 4, "align align_legacy"),
        ("maskrcnn train schedule =", 3, "1x 2x 3x finetune keypoints paper shapes"),
    ],
)
def test_bash_completes_commands_and_options(
    words: str,
    at: int,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(["completion", "bash"], monkeypatch) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    program = COMPLETE.format(script=tmp_path / "script", words=words, at=at)
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found
