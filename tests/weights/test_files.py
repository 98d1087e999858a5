"""Weight files: what NumPy and torch write is read, what would run code is refused before it runs."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.errors import UserError
from maskrcnn.weights.files import read_weights

ARRAYS = {
    "float": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big": np.arange(5, dtype=">f4"),
    "half": np.array([[1.5, -2]], np.float16),
    "bytes": np.arange(200, 256, dtype=np.uint8),
    "ints": np.array([-(2**40), 7], np.int64),
    "none": np.zeros((0, 3), np.float32),
    "single": np.array(2.5, np.float32),
    "truth": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {
        "model": OrderedDict(ARRAYS),
        "__author__": "someone",
        "matching_heuristics": True,
        "n": np.float64(2),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_weights(tmp_path / "a.pkl")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
        assert found[name].dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype
        assert found[name].shape == array.shape


def test_files_of_torch(tmp_path: Path) -> None:
    state = {"w": torch.arange(3.0)}
    torch.save({"model": state, "iteration": 3}, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.pkl")
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.pkl", "c.pth"):
        assert torch.equal(read_weights(tmp_path / name)["w"], state["w"])


class Calls:
    """Unpickling it calls something."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch was_here"),
        (open, "was_here", "w"),
        (eval, "open('was_here', 'w')"),
        (getattr, {}, "keys"),
        (np.load, "x"),
        (np.lib.format.open_memmap, "was_here"),
        (__import__, "os"),
        (torch.load, "x"),
    ],
)
@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_code_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...], suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(pickle.dumps({"model": {"w": ARRAYS["float"]}, "x": Calls(*call)}))
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_objects_in_an_array_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.array([{}, None], object)}))
    with pytest.raises(UserError, match="which no file of weights needs"):
        read_weights(tmp_path / "a.pkl")


def test_damaged_files_in_words(tmp_path: Path) -> None:
    whole = pickle.dumps({"w": ARRAYS["float"]})
    for length in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.pkl").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.pkl cannot be read"):
            read_weights(tmp_path / "a.pkl")
    with pytest.raises(UserError, match="no such file"):
        read_weights(tmp_path / "absent.pkl")
    for content, words in ((["x"], "hold a list"), ({"a": 1}, "none of the 1 entries")):
        stream = io.BytesIO()
        pickle.dump(content, stream)
        (tmp_path / "a.pkl").write_bytes(stream.getvalue())
        with pytest.raises(UserError, match=words):
            read_weights(tmp_path / "a.pkl")
