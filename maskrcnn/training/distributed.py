"""Several processes as one run: started by torchrun, NCCL between GPUs, Gloo between CPUs.

Without torchrun everything here is the identity, so that no caller asks how many processes there are.
"""

from __future__ import annotations

import datetime
import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskrcnn.errors import UserError

Value = TypeVar("Value")
# Rank 0 may score a large validation set while the others wait.
TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """The processes of a run: ``rank`` of this one among ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes of tensors of one shape; without waiting for the device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, by rank, in the main process; elsewhere an empty list."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def share(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns in the main process, or the UserError that it raises there, in every process; only the
        main one calls it."""
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
        """``make`` in the main process first (which may write files that it reads), then in all others."""
        made: list[Value] = []
        self.share(lambda: made.append(make()))
        return made[0] if made else make()

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes after every backward pass."""
        if self.size == 1:
            return model
        # Running statistics stay each process's own until `share_buffers`: a broadcast a step would buy nothing.
        new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.13
        shared: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        # The strides of a channels-last 1x1 convolution are ambiguous; torch copies such a gradient and warns of it.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # After its first step torch sorts the gradients anew, and three or more numbers then add up in another order: a
        # resumed run would begin with other bits. Looking for parameters without gradient, of which there are none, is
        # what keeps it from that (torch warns that it costs time).
        if self.size > 2 and torch.are_deterministic_algorithms_enabled():
            shared["find_unused_parameters"] = True
        return DistributedDataParallel(model, gradient_as_bucket_view=True, **shared)

    def lost(self, error: RuntimeError) -> str:
        """In words, what an error that `lost_peer` knows means."""
        return (
            f"process {self.rank} of {self.size} lost another one. It was killed, or its machine is gone (out of "
            f"memory?); what it printed last says more. What was noticed here:\n{error}"
        )

    def share_buffers(self, model: nn.Module) -> None:
        """The main process's running statistics to all, so that all evaluate the same model."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def local_rank() -> int | None:
    """This process's number on its machine, or None without torchrun."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that torchrun describes, joined until the block ends; a world of one without it.

    Raises UserError where the others cannot be reached, or one is lost on the way.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the other processes cannot be reached ({_first_line(error)}); start with torchrun"
        ) from error
    world = World(dist.get_rank(), dist.get_world_size())
    try:
        yield world
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        raise UserError(world.lost(error)) from error
    finally:
        dist.destroy_process_group()


def without_sync(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients stay in this process but for the last backward pass of a step."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[None] = model.no_sync()
    return context


def lost_peer(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone."""
    words = str(error).lower()
    known = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "timed out")
    return isinstance(error, dist.DistError) or any(word in words for word in known)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
