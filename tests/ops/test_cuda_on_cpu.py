"""The CUDA kernels, played on the CPU thread by thread: their arithmetic, indices and barriers without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "ops" / "maskrcnn_ops" / "csrc"
TORCH = Path(torch.__file__).parent

RUN = """
import sys, pytest, maskrcnn_ops
assert maskrcnn_ops.__file__.startswith(sys.argv[1]), maskrcnn_ops.__file__
assert maskrcnn_ops.kernels.CPU.compiled, maskrcnn_ops.kernels.CPU.reason
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of maskrcnn_ops whose kernels for the CPU are the CUDA ones."""
    if shutil.which("g++") is None:
        pytest.skip("running the CUDA kernels on the CPU needs a C++ compiler (g++)")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    copy = folder / "maskrcnn_ops"
    shutil.copytree(SOURCES.parent, copy, ignore=shutil.ignore_patterns("*.so", "csrc", "__pycache__"))
    flags = ["-std=c++20", "-O2", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    flags += ["-DMASKRCNN_CUDA_ON_CPU", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    includes = [Path(__file__).parent, SOURCES, TORCH / "include", TORCH / "include/torch/csrc/api/include"]
    system = [f"-isystem{path}" if path.is_relative_to(TORCH) else f"-I{path}" for path in includes]
    objects = [folder / f"{name}.o" for name in ("roi_cuda", "nms_cuda")]
    for target in objects:
        source = SOURCES / f"{target.stem}.cu"
        subprocess.run(["g++", "-xc++", *flags, *system, "-c", str(source), "-o", str(target)], check=True)
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run(
        ["g++", "-shared", "-o", str(copy / "_C_cpu.so"), *map(str, objects), *libraries], check=True
    )
    return folder


def run(package: Path, order: str, *arguments: str) -> str:
    path = os.pathsep.join([str(package), str(ROOT)])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "MASKRCNN_CUDA_ORDER": order,
        "MASKRCNN_TEST_DEVICE": "cpu",
    }
    command = [sys.executable, "-c", RUN, str(package), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_the_kernels_pass_their_tests_in_any_order_of_threads(package: Path, order: str) -> None:
    assert " passed" in run(package, order, "tests/ops/test_cuda.py")


@pytest.mark.slow
def test_the_kernels_pass_the_operators_tests(package: Path) -> None:
    """Loops, torchvision, first and second derivatives; what concerns the CPU alone is left out."""
    left_out = "not rle and not threads and not worked and not opcheck"
    files = ["tests/ops/test_operators.py", "tests/ops/test_nms_and_rle.py"]
    assert " passed" in run(package, "shuffled", *files, "-k", left_out)
