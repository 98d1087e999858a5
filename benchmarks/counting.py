"""What a piece of code asks of torch: how many operators it dispatches, and which of them make the host wait for a GPU.

Counted are the operators themselves, so that a CPU shows what would wait on a GPU.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

# The size of their result, or a number, depends on values: the host waits until the device has computed them.
WAITING = {
    "aten::_local_scalar_dense": "item",
    "aten::equal": "equal",
    "aten::is_nonzero": "item",
    "aten::nonzero": "nonzero",
    "aten::nonzero_numpy": "nonzero",
    "aten::argwhere": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::_unique": "unique",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::unique_consecutive": "unique",
    "aten::unique_dim_consecutive": "unique",
    "aten::bincount": "bincount",
    "torchvision::nms": "nms",
}
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Counted(TorchDispatchMode):
    """Within it every operator is counted, forward and backward.

    dispatches: their number, views included. syncs: those that make the host wait, by kind: ``item``, ``nonzero``,
    ``masked index``, ``unique``, ``nms``, ``device to host`` copies (but for asynchronous ones) and ``literal``, a
    tensor made from Python numbers, which a GPU gets by a blocking copy.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self._reads = _Reads(self.syncs)

    def __enter__(self) -> Counted:
        self._reads.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._reads.__exit__(*error)  # type: ignore[no-untyped-call]

    @property
    def dispatches(self) -> int:
        return self.names.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        self.names[name] += 1
        kind = waits_for(name, args, kwargs or {})
        if kind is not None:
            self.syncs[kind] += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    """Counts reads of whole tensors by the host. On a CPU they dispatch no operator.

    What was copied with ``to("cpu", non_blocking=True)`` may be read: that it has come is the reader's business.
    """

    def __init__(self, syncs: Counter[str]) -> None:
        super().__init__()
        self._syncs = syncs
        self._copied: list[Tensor] = []  # compared by identity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if (
            name in ("tolist", "numpy", "__array__", "cpu")
            and args[0].numel() > 1
            and not any(args[0] is t for t in self._copied)
        ):
            self._syncs["device to host"] += 1
        # A device by name; one that is taken from another tensor is the device that computes.
        if name == "to" and any(
            isinstance(a, str) and a == "cpu" for a in (kwargs.get("device"), *args[1:2])
        ):
            if kwargs.get("non_blocking"):
                self._copied.append(result)
            else:
                self._syncs["device to host"] += 1
        return result


def arithmetic(steps: Mapping[str, Callable[[], object]]) -> dict[str, Any]:
    """The floating-point operations of each step's products and convolutions, and the CPU seconds that one core needs
    for as many at the faster rate of a matrix product and a 3x3 convolution: no step takes less."""
    a, w = torch.randn(1024, 1024), torch.randn(256, 256, 3, 3)
    x = torch.randn(2, 256, 64, 64).contiguous(memory_format=torch.channels_last)
    rate = max(
        _rate(2 * 1024**3, lambda: a @ a),
        _rate(2 * w.numel() * 2 * 64**2, lambda: F.conv2d(x, w, padding=1)),
    )
    found: dict[str, Any] = {"gflops_of_one_core": round(rate / 1e9, 1)}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops()
        found[name] = {"gflop": round(flops / 1e9, 1), "least_cpu_ms": round(1e3 * flops / rate, 1)}
    return found


def _rate(flops: int, work: Callable[[], object]) -> float:
    """Operations a second of all threads together, by their summed time: those of one core."""
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return flops / min(seconds)


def waits_for(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why an operator makes the host wait, or None."""
    if name in WAITING:
        return WAITING[name]
    if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        return "repeat_interleave"
    if name in _INDEXED and any(_is_mask(index) for index in args[1]):
        return "masked index"
    if name == "aten::lift_fresh":
        return "literal"
    if name == "aten::_to_copy" and _to_host(args[0].device, kwargs.get("device")):
        return None if kwargs.get("non_blocking") else "device to host"
    if name == "aten::copy_" and _to_host(args[1].device, args[0].device):
        return None if kwargs.get("non_blocking", len(args) > 2 and args[2]) else "device to host"
    return None


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _to_host(source: torch.device, target: torch.device | None) -> bool:
    return target is not None and target.type == "cpu" and source.type != "cpu"
