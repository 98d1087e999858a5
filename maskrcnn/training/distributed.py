"""The device of a run and its processes: started by torchrun, NCCL between GPUs, Gloo between CPUs.

Without torchrun, a `World` has one process and its methods are the identity, so callers need not check for the number.
"""

from __future__ import annotations

import datetime
import inspect
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from maskrcnn.console import console
from maskrcnn.errors import UserError

Value = TypeVar("Value")
# Rank 0 may score a large validation set while the others wait.
TIMEOUT = datetime.timedelta(minutes=30)
# How often this process has joined the others. The number is the same in all processes.
_joinings = itertools.count()


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Args:
        rank: number of this process.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum tensors of equal shape over all processes, without synchronising with the device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Value) -> list[Value]:
        """Return every process's value by rank in the main process, and an empty list elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def share(self, make: Callable[[], Value]) -> Value:
        """Call ``make`` in the main process only. Every process returns its value, or raises its UserError."""
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = make()
            except UserError as error:
                box[1] = error
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        value: Value = box[0]
        return value

    def main_first(self, make: Callable[[], Value]) -> Value:
        """Call ``make`` in the main process first, then in all others.

        The first call may write files that the others read.
        """
        made: list[Value] = []
        self.share(lambda: made.append(make()))
        return made[0] if made else make()

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model, with its gradients averaged over the processes after every backward pass."""
        if self.size == 1:
            return model
        # Each process keeps its running statistics until `share_buffers`. Broadcasting them in every step is useless.
        new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.13
        shared: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        # The strides of a channels-last 1x1 convolution are ambiguous; torch copies such a gradient with a warning.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # DDP reorders its buckets after step 1, which changes the order of sums of three or more numbers. A resumed
        # run would then differ in rounding. `find_unused_parameters=True` disables this (torch warns about its cost).
        if self.size > 2 and torch.are_deterministic_algorithms_enabled():
            shared["find_unused_parameters"] = True
        return DistributedDataParallel(model, gradient_as_bucket_view=True, **shared)

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the main process's running statistics to all processes, so that all evaluate the same model."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def share_weights(self, model: nn.Module) -> None:
        """Copy the main process's parameters and buffers to all processes."""
        if self.size > 1:
            for value in model.state_dict().values():
                shared = value.contiguous()  # Gloo does not support channels-last
                dist.broadcast(shared, 0)
                value.copy_(shared)


def be_deterministic(enabled: bool) -> None:
    """Make torch's results bit-identical between repeats. Call it before the device is first used."""
    torch.use_deterministic_algorithms(enabled)
    if enabled:
        # Filling new memory is a debugging aid that costs time; this code never reads uninitialised memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


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
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
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


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """A context in which the processes that torchrun describes are joined; without torchrun, a world of one process.

    All processes except the main one print nothing. Processes that are already joined stay joined. If a process is
    lost, the others end with torch's own error, and ``torchrun --max-restarts`` restarts all of them.

    Raises:
        UserError: the other processes cannot be reached.
    """
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        # torchrun's store still has the addresses from before a restart, and those of an earlier `joined`.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"attempt {attempt}, joining {next(_joinings)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the other processes cannot be reached ({cause}); start with torchrun") from error
    world = World(rank, size)
    quiet, console.quiet = console.quiet, not world.is_main
    try:
        yield world
    finally:
        console.quiet = quiet
        dist.destroy_process_group()


def without_sync(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """A context that synchronises gradients only in the last backward pass of a step.

    Args:
        model: from `World.parallel`.
        last: whether the pass is the last one.
    """
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[None] = model.no_sync()
    return context
