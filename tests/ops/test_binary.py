"""The compiled libraries: one build loads under any torch since 2.11, because it knows nothing of its C++ classes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import maskrcnn_ops
import pytest

LIBRARIES = sorted(Path(maskrcnn_ops.__file__).parent.glob("_C_*.so"))


@pytest.mark.skipif(not LIBRARIES, reason="no compiled kernels here")
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm (binutils) here")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_needs_no_class_of_torch(library: Path) -> None:
    command = ["nm", "--dynamic", "--undefined-only", "--demangle", str(library)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert any("aoti_torch_" in symbol or "torch_" in symbol for symbol in symbols)
    assert [s for s in symbols if re.search(r"\b(c10|at|caffe2)::", s)] == []
    assert [s for s in symbols if re.search(r"\bPy[A-Z_]", s)] == []  # nor of one version of Python
