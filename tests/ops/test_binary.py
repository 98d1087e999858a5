"""The compiled libraries: one build loads under any torch since 2.11, because it knows nothing of its C++ classes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import maskrcnn_ops
import pytest

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
