"""The worked examples as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_an_operator_beside_the_project_trains_by_its_config(tiny: Sequence[str], tmp_path: Path) -> None:
    """examples/ is in no package: tools find it in the working directory."""
    command = [
        sys.executable,
        "tools/train.py",
        *tiny,
        "roi_op=prroipool",
        "schedule.steps=2",
        f"run_dir={tmp_path}",
    ]
    paths = os.pathsep.join(path for path in sys.path if path and Path(path) != ROOT)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "metrics.json").exists()
