"""Commands that need no network do not import torch, which takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = [
    "maskrcnn",
    "maskrcnn.cli.check_data",
    "maskrcnn.cli.prepare_data",
    "maskrcnn.cli.compare",
    "maskrcnn.evaluation.metrics",
]


@pytest.mark.parametrize("module", MODULES)
def test_it_is_imported_without_torch_and_matplotlib(module: str) -> None:
    slow = "{'torch', 'torchvision', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["train", "eval", "check-data", "predict"])
def test_help_imports_no_torch(command: str) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "maskrcnn.cli", command, "--help"]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    assert f"Usage: maskrcnn {command}" in done.stdout
    imported = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert "maskrcnn.cli.entry" in imported
    assert "torch" not in imported
