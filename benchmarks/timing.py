"""Two sides measured in one process, in turns, after a warm-up: the ratio of their times and its spread."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from maskrcnn.errors import UserError
from maskrcnn.training.session import cores, processor


@dataclass(frozen=True)
class Row:
    """One comparison: how many times as long the peer takes (above 1: ours is faster)."""

    name: str
    peer: str
    setting: str
    ratios: list[float]
    ours_ms: float
    peer_ms: float
    goal: str = ""
    host_ms: tuple[float, float] | None = None  # ours and the peer's, of a device that works on its own

    def as_json(self) -> dict[str, Any]:
        digits = 2 if self.host_ms is None else 3
        host = (
            {}
            if self.host_ms is None
            else dict(zip(("ours_host_ms", "peer_host_ms"), self.host_ms, strict=True))
        )
        return {
            "name": self.name,
            "peer": self.peer,
            "setting": self.setting,
            "ratio_median": round(statistics.median(self.ratios), 2),
            "ratio_min": round(min(self.ratios), 2),
            "ratio_max": round(max(self.ratios), 2),
            "ours_ms": round(self.ours_ms, digits),
            "peer_ms": round(self.peer_ms, digits),
            **{key: round(value, digits) for key, value in host.items()},
            "goal": self.goal,
        }


def compare(
    name: str,
    peer: str,
    setting: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    goal: str = "",
    clock: Callable[[], float] = time.process_time,
    warm_up: bool = True,
) -> Row:
    """Run both once unmeasured (``warm_up``), then ``repeats`` times in turns. ``clock`` counts CPU time of the whole
    process.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(0 if warm_up else 1, repeats + 1):
        for side, kept in zip((ours, theirs), times, strict=True):
            begun = clock()
            side()
            if turn:
                kept.append(clock() - begun)
    ratios = [t / o for o, t in zip(*times, strict=True)]
    own, other = (1e3 * statistics.median(kept) for kept in times)
    return Row(name, peer, setting, ratios, own, other, goal)


def compare_queued(
    name: str,
    peer: str,
    setting: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    goal: str = "",
    calls: int = 10,
) -> Row:
    """As `compare`, on the current CUDA device: its own time for one of ``calls`` queued calls, and the host's to
    queue it.
    """
    spent: tuple[list[float], list[float]] = ([], [])
    queued: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for side, kept, host in zip((ours, theirs), spent, queued, strict=True):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begun = time.perf_counter()
            begin.record()
            for _ in range(calls):
                side()
            end.record()
            seconds = time.perf_counter() - begun
            torch.cuda.synchronize()
            if turn:
                kept.append(begin.elapsed_time(end) / calls)
                host.append(1e3 * seconds / calls)
    ratios = [t / o for o, t in zip(*spent, strict=True)]
    own, other = (statistics.median(kept) for kept in spent)
    own_host, other_host = (statistics.median(host) for host in queued)
    return Row(name, peer, setting, ratios, own, other, goal, (own_host, other_host))


def compare_steps(
    name: str,
    peer: str,
    setting: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    goal: str,
) -> list[Row]:
    """As `compare`, on two clocks: wall time, and CPU time of all threads, which a busy machine disturbs less."""
    clocks = (time.perf_counter, time.process_time)
    times: list[list[tuple[float, ...]]] = [[], []]
    for turn in range(repeats + 1):
        for side, kept in zip((ours, theirs), times, strict=True):
            begun = [clock() for clock in clocks]
            side()
            if turn:
                kept.append(tuple(clock() - start for clock, start in zip(clocks, begun, strict=True)))
    rows = []
    for index, words in enumerate(("wall time", "CPU time")):
        own, other = ([turn[index] for turn in kept] for kept in times)
        ratios = [t / o for o, t in zip(own, other, strict=True)]
        ours_ms, peer_ms = (1e3 * statistics.median(side) for side in (own, other))
        rows.append(
            Row(f"{name} ({words})", peer, setting, ratios, ours_ms, peer_ms, goal if index == 0 else "")
        )
    return rows


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, for both sides; whether the C library can (glibc).

    Otherwise every large output is handed back to the system and paid for again page by page (on a virtual machine that
    gives free pages back to its host, several times over), and the comparison is one of page faults.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def device_of(name: str) -> torch.device:
    """The device asked for; ``auto`` is a CUDA device, or the CPU without one.

    A copy of `maskrcnn.config.build.open_device` that imports torch alone: measuring the operators needs no more.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        words = str(error).splitlines()[0]
        raise UserError(f"device={name} cannot be used: {words}; try device=cpu") from error
    return device


def instruction_sets() -> str:
    """The vector instructions that torch and oneDNN use: ``AVX2``, ``AVX512``, and what limits them."""
    limits = [
        f"{name}={os.environ[name]}"
        for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
        if name in os.environ
    ]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *limits])


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    return {
        "processor": f"{processor()}, {instruction_sets()}",
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": os.getloadavg()[0],
    }
