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
import torch
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


def test_the_report_names_the_instruction_set() -> None:
    if not kernels.CPU.compiled:
        pytest.skip("needs the compiled CPU kernels, and there are none (no C++ compiler at installation)")
    assert f"_C_cpu.so, {kernels.instruction_set()}" in kernels.report()


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [([(7, 5), (9, 0)], []), ([(8, 6), (7, 0), (6, 1)], ["sm_61", "sm_70"]), ([], [])],
)
def test_kernels_are_not_loaded_for_a_device_they_were_not_compiled_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capabilities: list[tuple[int, int]], found: list[str]
) -> None:
    """They would be registered, and fail with "no kernel image" when called; the reference would not run."""
    (tmp_path / "_C_cuda.so").write_bytes(b"\x7fELF\0maskrcnn_ops for CUDA architectures 750,800,900\0")
    loaded: list[str] = []
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    state = kernels._load_cuda()
    assert state.compiled == bool(loaded) == (not found)
    assert not found or state.reason.startswith(f"not compiled for this device ({', '.join(found)})")


def test_the_cuda_library_says_what_it_was_compiled_for() -> None:
    library = next((path for path in LIBRARIES if path.name.startswith("_C_cuda")), None)
    if library is None:
        pytest.skip("needs the compiled CUDA kernels, and there are none (no nvcc at installation)")
    assert re.search(rb"maskrcnn_ops for CUDA architectures \d{3}(,\d{3,4})*\0", library.read_bytes())


@pytest.mark.slow
def test_a_gpu_that_was_asked_for_and_is_not_there_fails_its_tests() -> None:
    if torch.cuda.is_available() and kernels.CUDA.compiled:
        pytest.skip("a GPU is there: this tests what is reported without one")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/test_cuda.py"],
        env={**os.environ, "MASKRCNN_TEST_DEVICE": "cuda"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"CUDA devices, {kernels.CUDA.reason}" in done.stdout


RUN = """
import sys, pytest
from maskrcnn_ops import kernels
assert kernels.instruction_set() == sys.argv[1], kernels.instruction_set()
sys.exit(pytest.main(["-q", *sys.argv[2:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("wish", "name"), [("baseline", "baseline"), ("avx2", "AVX2")])
def test_the_roi_kernels_for_older_processors_equal_the_reference(wish: str, name: str) -> None:
    """Of the RoI operators what this processor could do beyond is held back, in a process of its own.

    Not of non-maximum suppression and run lengths: the few loops of theirs that have a version for AVX2
    (csrc/vectors.h) are chosen by the processor when the library loads, whatever MASKRCNN_OPS_ISA says, so that their
    plain version runs on a processor without AVX2 alone.
    """
    if not kernels.CPU.compiled:
        pytest.skip("needs the compiled CPU kernels, and there are none (no C++ compiler at installation)")
    if kernels.instruction_set() == "baseline" != wish:
        pytest.skip("this processor has no AVX2")
    files = ("test_operators", "test_combinations", "test_torchvision")
    tests = [f"tests/ops/{file}.py" for file in files]
    done = subprocess.run(
        [sys.executable, "-c", RUN, name, *tests],
        env={**os.environ, "MASKRCNN_OPS_ISA": wish},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
