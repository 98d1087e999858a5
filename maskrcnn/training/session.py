"""The directory of a run, and the commit, versions and machine of each session in it. It does not import torch."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from maskrcnn.errors import UserError

_PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "maskrcnn")
_FILE = "sessions.jsonl"


def open_run_dir(run_dir: str | Path | None) -> Path:
    """The run directory, created if it does not exist; ``runs/<date-time>`` for None."""
    from maskrcnn.console import console  # lazily, because the benchmarks of the operators need torch alone

    path = Path(run_dir or f"runs/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir={path} cannot be made: {error}") from error
    console.print(f"run directory: {path}")
    return path


def here() -> dict[str, Any]:
    """Commit, versions and machine of this process."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "machine": machine(),
    }


def note_session(run_dir: Path, step: int, settings: dict[str, Any]) -> None:
    """Add a line to the run's list of sessions.

    Args:
        run_dir: the run directory.
        step: number of finished steps at the start of the session.
        settings: settings of this session that may change between sessions.
    """
    with (run_dir / _FILE).open("a") as file:
        file.write(json.dumps({"step": step, "settings": settings, **here()}) + "\n")


def sessions(run_dir: Path) -> list[dict[str, Any]]:
    """The run's sessions, from the first to the last."""
    path = run_dir / _FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def commit() -> str:
    """The current commit, with ``+`` if files other than results differ from it; ``unknown`` outside a repository."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        files = ("--", ":(top)", ":(top,exclude)results")  # runs write their reports there
        changed = "+" if git("status", "--porcelain", "--untracked-files=no", *files) else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Name of the processor, or its kind if the system does not report a name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    """Processor, number of usable cores, and the GPU if there is one."""
    import torch  # lazily, because it takes seconds

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {cores()} cores{gpu}"
