"""What a run was made with: commit, versions and machine, noted whenever it starts or resumes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "maskrcnn")
_FILE = "sessions.jsonl"


def here() -> dict[str, Any]:
    """Of this process."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "machine": machine(),
    }


def note_session(run_dir: Path, step: int, settings: dict[str, Any]) -> None:
    """Add a line to the run's list: from ``step`` on it is made by this process, with these of its settings."""
    with (run_dir / _FILE).open("a") as file:
        file.write(json.dumps({"step": step, "settings": settings, **here()}) + "\n")


def sessions(run_dir: Path) -> list[dict[str, Any]]:
    """The run's list, from its first session to the last."""
    path = run_dir / _FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def commit() -> str:
    """The commit that runs, with ``+`` where files other than results differ from it; ``unknown`` outside of a
    repository."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        files = ("--", ":(top)", ":(top,exclude)results")  # reports are written by the runs themselves
        changed = "+" if git("status", "--porcelain", "--untracked-files=no", *files) else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Its name, or where the system does not tell, its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    """Processor, cores that may be used, and the GPU if there is one."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {cores()} cores{gpu}"
