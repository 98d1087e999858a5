"""The compiled libraries: one build loads under any torch since 2.11, because it knows nothing of its C++ classes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import maskrcnn_ops
import pytest
from maskrcnn_ops import kernels

LIBRARIES = sorted(Path(maskrcnn_ops.__file__).parent.glob("_C_*.so"))


@pytest.mark.skipif(
    not LIBRARIES, reason="installed without a compiler, so there is no compiled library to inspect"
)
@pytest.mark.skipif(
    shutil.which("nm") is None, reason="listing a library's symbols needs nm, of the package binutils"
)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_needs_no_class_of_torch(library: Path) -> None:
    command = ["nm", "--dynamic", "--undefined-only", "--demangle", str(library)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert any("aoti_torch_" in symbol or "torch_" in symbol for symbol in symbols)
    assert [s for s in symbols if re.search(r"\b(c10|at|caffe2)::", s)] == []
    assert [s for s in symbols if re.search(r"\bPy[A-Z_]", s)] == []  # nor of one version of Python


@pytest.mark.slow
@pytest.mark.parametrize("wish", ["baseline", "avx2"])
def test_the_kernels_for_older_processors_equal_the_reference(wish: str) -> None:
    """What this processor could do beyond is held back, in a process of its own."""
    if not kernels.CPU.compiled:
        pytest.skip("the CPU kernels are not compiled on this machine")
    tests = [f"tests/ops/{name}.py" for name in ("test_operators", "test_combinations", "test_nms_and_rle")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *tests],
        env={**os.environ, "MASKRCNN_OPS_ISA": wish},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
