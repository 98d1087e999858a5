"""Checkpoints are whole or absent, execute no code, and say in words what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from maskrcnn.engine import checkpoint
from maskrcnn.errors import UserError


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    config = {"a": [1, None, "x"]}
    checkpoint.save(tmp_path / "a.pt", {"model": {"w": torch.arange(5.0)}, "step": 3, "config": config})
    found = checkpoint.load_model(tmp_path / "a.pt")
    assert found["model"]["w"].tolist() == [0, 1, 2, 3, 4]
    assert (found["step"], found["config"]) == (3, config)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_failed_write_keeps_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "a.pt", {"step": 1})

    def full_disk(content: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path / "a.pt", {"step": 2})
    assert checkpoint.load(tmp_path / "a.pt") == {"step": 1}


class Malicious:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (self.path, "w"))


@pytest.mark.parametrize("damage", ["pickle", "truncated", "text", "empty"])
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"model": {"w": torch.zeros(1000)}})
    whole, malicious = path.read_bytes(), pickle.dumps(Malicious(tmp_path / "was_here"))
    path.write_bytes({"pickle": malicious, "truncated": whole[:-500], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"a\.pt cannot be read"):
        checkpoint.load(path)
    assert not (tmp_path / "was_here").exists()


def test_files_that_are_no_runs_are_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", {"model": {}})
    with pytest.raises(UserError, match="has no step, config"):
        checkpoint.load_model(tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "b.pt")
    with pytest.raises(UserError, match="expected a dictionary"):
        checkpoint.load(tmp_path / "b.pt")


def test_initialise_takes_what_fits_and_lists_the_rest(tmp_path: Path) -> None:
    source = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    target = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 6))
    checkpoint.save(tmp_path / "a.pt", {"model": source.state_dict()})
    before = target[1].weight.clone()
    with pytest.raises(
        UserError, match=r"(?s)1\.weight: \[5, 4\] in the file, \[6, 4\] here.*reset_heads=true"
    ):
        checkpoint.initialise(target, tmp_path / "a.pt", reset_heads=False)
    skipped = checkpoint.initialise(target, tmp_path / "a.pt", reset_heads=True)
    assert [name for name, _ in skipped] == ["1.weight", "1.bias"]
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].weight, before)
    with pytest.raises(UserError, match="none of its 4 entries fits"):
        checkpoint.initialise(nn.Conv2d(1, 1, 1), tmp_path / "a.pt", reset_heads=True)
