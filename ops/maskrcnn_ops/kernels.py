"""Loading of the compiled kernels, and a report on which of them are used."""

from __future__ import annotations

import ctypes
import platform
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from . import operators  # noqa: F401  (the schemas must exist before the kernels load)

FOLDER = Path(__file__).parent
MINIMUM_TORCH = (2, 11)


@dataclass(frozen=True)
class Kernels:
    """Whether the compiled kernels of a device are used, and the reason."""

    device: str
    compiled: bool
    reason: str


def _library(name: str) -> Path | None:
    return next(iter(sorted(FOLDER.glob(f"{name}*.so"))), None)


def _torch_version() -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


def _load(name: str, device: str, missing: str) -> Kernels:
    path = _library(name)
    if path is None:
        return Kernels(device, False, missing)
    if _torch_version() < MINIMUM_TORCH:
        return Kernels(device, False, f"they need torch >= 2.11, this is {torch.__version__}")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return Kernels(device, False, f"{path.name} does not load: {error}")
    return Kernels(device, True, f"compiled kernels from {path.name}")


def _load_cpu() -> Kernels:
    missing = (
        "_C_cpu was not built (no C++ compiler when installing?)"
        if platform.system() == "Linux"
        else f"the compiled kernels are built on Linux only, this is {platform.system()}"
    )
    return _load("_C_cpu", "cpu", missing)


def _load_cuda() -> Kernels:
    if torch.version.cuda is None:
        return Kernels("cuda", False, f"torch {torch.__version__} is built without CUDA")
    unserved = _unserved_devices()
    if unserved:
        words = f"not compiled for this device ({', '.join(unserved)}); TORCH_CUDA_ARCH_LIST when installing sets it"
        return Kernels("cuda", False, words)
    return _load(
        "_C_cuda", "cuda", "_C_cuda was not built (no nvcc of torch's CUDA version when installing?)"
    )


def _unserved_devices() -> list[str]:
    """Return the architectures (``sm_75``) of present CUDA devices that the library was not compiled for.

    The library must not be loaded then, because its kernels would fail. Its file contains the list of architectures,
    for example 750,800,900.
    """
    path = _library("_C_cuda")
    if path is None or not torch.cuda.is_available():
        return []
    stated = re.search(rb"maskrcnn_ops for CUDA architectures ([\d,]+)", path.read_bytes())
    oldest = min(int(number) for number in stated[1].split(b",")) if stated else 0
    devices = (torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    return sorted({f"sm_{major}{minor}" for major, minor in devices if 100 * major + 10 * minor < oldest})


def _say_once() -> None:
    """Warn once if a device of this machine uses the reference."""
    present = [CPU] + ([CUDA] if torch.cuda.is_available() else [])
    slow = [f"{k.device}: {k.reason}" for k in present if not k.compiled]
    if slow:
        warnings.warn(
            f"maskrcnn_ops runs on its PyTorch reference, which is slower ({'; '.join(slow)}). "
            "`python -m maskrcnn_ops` says more.",
            RuntimeWarning,
            stacklevel=2,
        )


CPU = _load_cpu()
CUDA = _load_cuda()
_say_once()


def instruction_set() -> str | None:
    """Return the instruction set of the compiled CPU kernels: baseline, AVX2 or AVX-512; None if there are none."""
    path = _library("_C_cpu")
    if path is None or not CPU.compiled:
        return None
    name = ctypes.CDLL(str(path)).maskrcnn_ops_instruction_set
    name.restype = ctypes.c_char_p
    return str(name().decode())


def report() -> str:
    """Return a text that says which kernels are used on this machine and why others are not."""
    lines = [f"maskrcnn_ops on torch {torch.__version__}, {platform.system()} {platform.machine()}"]
    for kernels in (CPU, CUDA):
        state = "compiled" if kernels.compiled else "reference"
        lines.append(f"  {kernels.device:4}  {state:9}  {kernels.reason}")
    lines[1] += f", {instruction_set()}" if CPU.compiled else ""
    if CUDA.compiled and not torch.cuda.is_available():
        lines.append("        no CUDA device is present, so the CUDA kernels have nothing to run on")
    return "\n".join(lines)
