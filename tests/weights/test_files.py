"""Weight files: what NumPy and torch write is read, what would run code is refused before it runs."""

from __future__ import annotations

import argparse
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


STATE = {"backbone.weight": torch.arange(3.0), "head.bias": torch.ones(2)}
TRAININGS: dict[str, Any] = {
    "torchvision's script": {
        "model": STATE,
        "optimizer": {},
        "args": argparse.Namespace(epochs=26),
        "epoch": 25,
    },
    "DataParallel": {f"module.{name}": value for name, value in STATE.items()},
    "torch.compile": {f"_orig_mod.{name}": value for name, value in STATE.items()},
    "DataParallel in a checkpoint": {"model": {f"module.{name}": value for name, value in STATE.items()}},
    "Lightning": {
        "state_dict": {
            **{f"model.{name}": value for name, value in STATE.items()},
            "loss.weight": torch.ones(1),
        },
        "pytorch-lightning_version": "2.4",
    },
    "MMDetection": {"meta": {"epoch": 3}, "state_dict": STATE, "optimizer": {}},
    "model_state_dict": {"epoch": 3, "model_state_dict": STATE},
}


@pytest.mark.parametrize("kind", TRAININGS)
def test_checkpoints_of_other_trainings(tmp_path: Path, kind: str) -> None:
    torch.save(TRAININGS[kind], tmp_path / "a.pth")
    found = read_weights(tmp_path / "a.pth")
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        torch.testing.assert_close(found[name], value)


def test_a_pickled_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"it holds objects \(torch\.nn.*torch\.save\(model\.state_dict\(\)"
    ) as caught:
        read_weights(tmp_path / "a.pth")
    assert "\x1b" not in str(caught.value)
