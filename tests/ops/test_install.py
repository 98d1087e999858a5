"""The package from its source distribution, on a machine without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import warnings
import torch
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import maskrcnn_ops
    from maskrcnn_ops.kernels import CPU
    pooled = maskrcnn_ops.roi_align(torch.ones(1, 2, 8, 8), [torch.tensor([[0.0, 0, 40, 40]])], 3, 1 / 8)
    (mask,) = maskrcnn_ops.masks_to_rle(torch.ones(1, 28, 28), torch.tensor([[-20.0, -20, 30, 30]]), 9, 9)
print(maskrcnn_ops.__file__)
print(CPU.reason)
print(sum("PyTorch reference" in str(w.message) for w in said))
print(pooled.mean().item(), mask["counts"])
"""


@pytest.mark.slow
def test_a_source_distribution_without_a_compiler_runs_on_the_reference(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="building a distribution needs setuptools")
    source = tmp_path / "source"
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the sources are not a git checkout, so it is not known which files belong to them")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.split("\0"):
        if (ROOT / name).is_file() and not name.startswith("results/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    _setup(source, "sdist", "--dist-dir", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    said = _setup(unpacked, "bdist_wheel", "--dist-dir", str(tmp_path))
    assert "no C++ compiler (/nowhere) was found" in said
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert not list((tmp_path / "site").rglob("*.so"))
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{SCRIPT}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    place, reason, times, values = found.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert "no C++ compiler" in reason
    assert times == "1"
    covered = coco_mask.encode(np.ones((9, 9), np.uint8, order="F"))["counts"].decode()
    assert values == f"1.0 {covered}"


def _setup(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "setup.py", *arguments]
    run = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "CXX": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr
