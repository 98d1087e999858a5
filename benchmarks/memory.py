"""Peak memory of each side's work, measured in a process of its own: a peak includes whatever else a process held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import detectron2
from maskrcnn.training.logging import peak_memory_mib

TIMES = 2  # the second time finds what the first one leaves: gradients, momentum


def peaks(suite: str, **arguments: Any) -> dict[str, Any]:
    """MiB of each side, and each peer's divided by ours.

    Args:
        suite: a module of benchmarks/ whose ``one_side(name, **arguments)`` makes the work.
        arguments: of ``one_side``; plain values.

    Returns:
        ``resident_mib`` of the process by side, on a GPU also ``device_mib``; ``ratio`` by peer, of the device in use.
    """
    sides = ["ours", "torchvision", *(["Detectron2"] if detectron2.is_installed() else [])]
    found = {side: _measured(suite, side, arguments) for side in sides}
    kinds: dict[str, Any] = {kind: {side: found[side][kind] for side in sides} for kind in found["ours"]}
    used = kinds.get("device_mib", kinds["resident_mib"])
    return {**kinds, "ratio": {peer: round(used[peer] / used["ours"], 2) for peer in sides[1:]}}


def _measured(suite: str, side: str, arguments: dict[str, Any]) -> dict[str, float]:
    given = json.dumps({"name": side, **arguments})
    command = [sys.executable, "-m", "benchmarks.memory", suite, given]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def report(work: Callable[[], object]) -> dict[str, float]:
    """Do the work `TIMES` times; the process's peaks."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    for _ in range(TIMES):
        work()
    resident = peak_memory_mib()
    device = {"device_mib": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_available() else {}
    return {name: round(value, 1) for name, value in {"resident_mib": resident, **device}.items()}


if __name__ == "__main__":
    from importlib import import_module

    suite, given = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(report(import_module(f"benchmarks.{suite}").one_side(**given))))
