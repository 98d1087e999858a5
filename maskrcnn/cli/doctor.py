"""Print what is installed and what is missing, for an issue report.

Usage: maskrcnn doctor

The lines list the versions, the compiled operators, the GPU, the config folders, and the optional packages with the
extra that installs each.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from maskrcnn_ops import kernels

import maskrcnn
from maskrcnn.config import files
from maskrcnn.errors import UserError
from maskrcnn.training.session import commit, cores

# Import name of the package of each extra in pyproject.toml.
EXTRAS = {
    "albumentations": "albumentations",
    "huggingface_hub": "hub",
    "onnxruntime": "export",
    "submitit": "slurm",
    "supervision": "supervision",
    "timm": "timm",
    "wandb": "wandb",
}


def main(arguments: Sequence[str]) -> None:
    """Print the report."""
    if arguments:
        raise UserError(f"doctor takes no arguments, got {' '.join(arguments)}")
    print("\n".join(lines()))


def lines() -> list[str]:
    """The report, one line per topic."""
    present = [name for name in EXTRAS if find_spec(name) is not None]
    missing = [f"{name} (maskrcnn[{EXTRAS[name]}])" for name in EXTRAS if name not in present]
    return [
        f"maskrcnn     {_version('maskrcnn')}, commit {commit()}, in {Path(maskrcnn.__file__).parent}",
        f"Python       {platform.python_version()} at {sys.executable}",
        f"system       {platform.platform()}, {cores()} of {os.cpu_count()} cores",
        f"torch        {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        f"torchvision  {_version('torchvision')}, numpy {_version('numpy')}, hydra {_version('hydra-core')}",
        f"CPU kernels  {kernels.CPU.reason}, {kernels.instruction_set() or 'PyTorch reference'}",
        f"CUDA kernels {kernels.CUDA.reason}",
        f"GPU          {_gpus()}",
        f"configs      {', '.join(str(folder) for folder in files.folders())}",
        f"optional     {', '.join(present) or 'none'}; missing: {', '.join(missing) or 'none'}",
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    devices = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return ", ".join(
        f"{device.name} (sm_{device.major}{device.minor}, {device.total_memory / 2**30:.0f} GiB)"
        for device in devices
    )
