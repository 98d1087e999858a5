"""The device that a run computes on."""

from __future__ import annotations

import os

import torch

from maskrcnn.errors import UserError
from maskrcnn.training.distributed import local_rank


def open_device(name: str | torch.device, threads: int | None = None) -> torch.device:
    """Select a device and make it the current one.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` is a GPU (under torchrun, each process's own), or the
            CPU if there is none.
        threads: number of CPU threads; None keeps torch's number.

    Raises:
        UserError: the device cannot be used, or there are more threads than eight times the cores.
    """
    if threads is not None:
        cores = os.cpu_count() or 1
        if threads > 8 * cores:
            raise UserError(f"threads={threads}: this machine has {cores} cores; left out, all are used")
        torch.set_num_threads(threads)
    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and (rank := local_rank()) is not None:
        name = f"cuda:{rank}"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"device={name} cannot be used: {str(error).splitlines()[0]}; try device=cpu"
        ) from error
    return device
