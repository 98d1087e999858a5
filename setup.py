"""Lists the packages and builds the compiled operators.

`_C_cpu` is built where a C++ compiler exists, `_C_cuda` where nvcc exists too. A missing compiler is not an error:
the operators then run on their PyTorch reference. A compilation that fails is an error. Both libraries use the
libtorch stable ABI of torch 2.11, so one build loads under every torch from 2.11 on.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

SOURCES = Path("ops/maskrcnn_ops/csrc")
# -ffp-contract=off: fusing the products of the coordinate code moves samples; kernels ask for fma where it is meant.
HOST_FLAGS = ["-O3", "-std=c++20", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
DEFINES = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]


def say(message: str) -> None:
    print(f"maskrcnn_ops: {message}", file=sys.stderr)


def cuda_home() -> str | None:
    """The toolkit's own folder; where `nvcc` on PATH is a wrapper, only `nvcc --dryrun` knows it (as TOP)."""
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "/usr/local/cuda" if Path("/usr/local/cuda/bin/nvcc").exists() else None
    dryrun = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    )
    top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, flags=re.MULTILINE)
    return str(Path(top[1]).resolve()) if top else str(Path(nvcc).resolve().parent.parent)


def cpu_extension() -> object:
    from torch.utils.cpp_extension import CppExtension

    sources = sorted(str(p) for p in SOURCES.glob("*.cpp"))
    return CppExtension(
        "maskrcnn_ops._C_cpu", sources, extra_compile_args=HOST_FLAGS + DEFINES, py_limited_api=True
    )


def cuda_extension() -> object:
    from torch.utils.cpp_extension import CUDAExtension

    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;9.0+PTX")
    nvcc_flags = ["-O3", "-std=c++20", "-fmad=false", "-DUSE_CUDA", *DEFINES]
    return CUDAExtension(
        "maskrcnn_ops._C_cuda",
        sorted(str(p) for p in SOURCES.glob("*.cu")),
        extra_compile_args={"cxx": [*HOST_FLAGS, *DEFINES], "nvcc": nvcc_flags},
        py_limited_api=True,
    )


def why_not_cpu() -> str | None:
    """Why the CPU library is not built, or None where it is."""
    wish = os.environ.get("MASKRCNN_OPS_BUILD")
    if wish == "0":
        return "MASKRCNN_OPS_BUILD=0 asks for none"
    if platform.system() != "Linux" and wish != "1":
        return f"they are built on Linux only, this is {platform.system()}; MASKRCNN_OPS_BUILD=1 tries it"
    compiler = os.environ.get("CXX", "g++").split()[0]
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler}) was found"


def why_not_cuda(home: str | None) -> str | None:
    """Why the CUDA library is not built, or None where it is."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if home is None:
        return "no CUDA toolkit (nvcc) was found"
    release = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+)\.", release.stdout)
    major = torch.version.cuda.split(".")[0]
    if found is None or found[1] != major:
        return f"torch is built with CUDA {torch.version.cuda}, the toolkit at {home} is CUDA {found and found[1]}"
    return None if any(SOURCES.glob("*.cu")) else "no CUDA sources"


def extensions() -> tuple[list[object], dict[str, object]]:
    reason = why_not_cpu()
    if reason:
        say(f"no compiled kernels: {reason}; the operators will run on their PyTorch reference")
        return [], {}
    home = cuda_home()
    if home:
        os.environ["CUDA_HOME"] = home  # before torch.utils.cpp_extension looks for it
    from torch.utils.cpp_extension import BuildExtension

    modules = [cpu_extension()]
    reason = why_not_cuda(home)
    if reason:
        say(f"no CUDA kernels: {reason}")
    else:
        modules.append(cuda_extension())
    return modules, {"build_ext": BuildExtension.with_options(no_python_abi_suffix=True)}


modules, commands = extensions()
setup(
    # The config files stay at configs/ in the repository and are installed as maskrcnn/configs.
    packages=[*find_packages(include=["maskrcnn*"]), "maskrcnn.configs", "maskrcnn_ops"],
    package_dir={"maskrcnn.configs": "configs", "maskrcnn_ops": "ops/maskrcnn_ops"},
    package_data={
        "maskrcnn.configs": ["**/*.yaml"],
        "maskrcnn.ablation": ["templates/*"],
        "maskrcnn.ablation.explorer": ["*.html", "*.css", "*.js"],
        "maskrcnn.prediction": ["*.j2"],
        "maskrcnn_ops": ["csrc/*"],
    },
    ext_modules=modules,
    cmdclass=commands,
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if modules else {},
)
