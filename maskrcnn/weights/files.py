"""Reads weight files of other programs without executing their content."""

from __future__ import annotations

import argparse
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.errors import UserError
from maskrcnn.models import hub

# Formats of numbers that a weight file may hold, as NumPy writes them: kind and bytes.
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
_ZIP = b"PK\x03\x04"
# Keys of the state dict in training checkpoints, and prefixes of its names.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict to the CPU: of torch, of safetensors, or a pickle of NumPy arrays (Detectron2's model zoo).

    Of a training checkpoint, `state_of` selects the state dict. Names without an array or tensor are left out. No code
    in the file is executed: pickles may contain arrays, numbers, strings, lists and dictionaries only.

    Args:
        path: the file, or an address on the Hub (``hf://user/repo/file``).

    Raises:
        UserError: the file does not exist, cannot be read, or has no state dict.
    """
    path = hub.local_path(path)
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    if path.suffix == hub.SUFFIX:
        return hub.read_tensors(path)[0]
    try:
        content = read_pickle(path.read_bytes()) if _is_plain_pickle(path) else read_torch(path)
    except Exception as error:  # a damaged pickle can raise any exception
        raise UserError(f"weights {path} cannot be read: {unreadable(path, error)}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"weights {path} hold a {type(content).__name__}, expected a dictionary")
    content = state_of(content)
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"weights {path}: none of the {len(content)} entries is an array or a tensor")
    return state


def read_pickle(data: bytes) -> Any:
    """Read a pickle of plain values and NumPy arrays. Arrays become tensors.

    Raises:
        pickle.UnpicklingError: the pickle names anything else. It is raised before that is called.
    """
    return _finished(_Reader(io.BytesIO(data), encoding="latin1").load())


def _is_plain_pickle(path: Path) -> bool:
    """Whether this is a pickle and not a torch file. Torch's older format is a sequence of pickles."""
    with path.open("rb") as file:
        return path.suffix == ".pkl" and file.read(4) != _ZIP


def state_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict in a training checkpoint, with the model's own names.

    It is the entry ``model`` (torchvision, Detectron2) or ``state_dict`` (Lightning, MMDetection) if there is one. The
    prefixes of DataParallel, torch.compile and Lightning are removed if all names have them, except those of a loss
    (Lightning).
    """
    for key in _CONTAINERS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            content = inner
    for prefix in _PREFIXES:
        inside = {
            name[len(prefix) :]: value for name, value in content.items() if str(name).startswith(prefix)
        }
        if 2 * len(inside) > len(content):
            content = inside
    return content


def read_torch(path: Path, mmap: bool = False) -> Any:
    """Read a torch file to the CPU: tensors, plain values, and a script's parsed arguments.

    Args:
        path: the file.
        mmap: map tensors into memory instead of reading them.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def unreadable(path: Path, error: Exception) -> str:
    """An error message for a torch file that cannot be read, with the remedy.

    Args:
        path: the file.
        error: the exception of torch.
    """
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a torch archive, or a damaged one
        objects = []
    if objects:
        return (
            f"it holds objects ({', '.join(sorted(objects)[:3])}{', ...' if len(objects) > 3 else ''}), and loading "
            "them would execute code. On the machine that made the file, save only the weights: "
            "torch.save(model.state_dict(), 'weights.pth')"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "weights_only" in reason:  # torch suggests a load that executes code
        reason = "it is damaged, no file of torch's, or holds more than tensors and plain values"
    return reason


class _Reader(pickle.Unpickler):
    """Replaces NumPy's functions in a pickle by harmless stand-ins, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no file of weights needs")
        return stand_in


class _DType:
    """Stand-in for the type of an array; ``text`` is kind and bytes, such as "f4"."""

    def __init__(self, text: str, align: bool = False, copy: bool = False) -> None:
        self.text, self.order = text, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def read(self, data: Any, count: int = -1) -> np.ndarray[Any, Any]:
        if self.text not in _NUMBERS or self.order not in "<>|=":
            raise pickle.UnpicklingError(
                f"an array of {self.order}{self.text}, which no file of weights needs"
            )
        order = "" if self.text[1] == "1" else self.order
        return np.frombuffer(_as_bytes(data), np.dtype(order + self.text), count)


class _Array:
    """Stand-in for an array, which becomes a tensor after everything was read."""

    def __init__(self, *reconstruction: Any) -> None:
        self.state: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def finished(self) -> Tensor:
        if self.state is None or len(self.state) != 5 or not isinstance(self.state[2], _DType):
            raise pickle.UnpicklingError("an array without its values")
        _, shape, dtype, fortran, data = self.state
        values = dtype.read(data, math.prod(shape)).reshape(shape, order="F" if fortran else "C")
        values = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))
        return torch.from_numpy(values.reshape(shape).copy())


def _from_buffer(data: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    """Arrays in protocol 5."""
    array = _Array()
    array.state = (1, shape, dtype, order == "F", data)
    return array


def _as_bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _finished(value: Any) -> Any:
    """Replace the arrays in ``value`` by tensors."""
    if isinstance(value, _Array):
        return value.finished()
    if isinstance(value, Mapping):
        return {key: _finished(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finished(item) for item in value]
    return value


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): lambda dtype, data: dtype.read(data).item(),
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # bytes in protocol 2
    ("__builtin__", "bytes"): lambda: b"",  # no bytes in protocols 0 to 2
    ("collections", "OrderedDict"): OrderedDict,
}
