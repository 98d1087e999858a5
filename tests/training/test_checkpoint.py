"""Checkpoints are whole or absent, execute no code, and say in words what does not fit."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from maskrcnn.errors import UserError
from maskrcnn.training import checkpoint
from maskrcnn.training.initialise import initialise


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    config = {"a": [1, None, "x"]}
    checkpoint.save(tmp_path / "a.pt", {"model": {"w": torch.arange(5.0)}, "step": 3, "config": config})
    found = checkpoint.load_model(tmp_path / "a.pt")
    assert found["model"]["w"].tolist() == [0, 1, 2, 3, 4]
    assert (found["step"], found["config"]) == (3, config)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_failed_write_keeps_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """torch's archive writer reports a full disk as RuntimeError."""
    checkpoint.save(tmp_path / "a.pt", {"step": 1})

    def full_disk(content: object, file: object) -> None:
        raise kind("No space left on device")

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
    with pytest.raises(UserError, match=r"a\.pt cannot be read") as error:
        checkpoint.load(path)
    assert "weights_only" not in str(error.value)  # torch's advice to load it with all that it executes
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
        initialise(target, tmp_path / "a.pt", reset_heads=False)
    skipped, words = initialise(target, tmp_path / "a.pt", reset_heads=True)
    assert [line.split() for line in words] == [
        ["0.weight", "1", "of", "1", "kept"],
        ["0.bias", "1", "of", "1", "kept"],
        ["1.weight", "0", "of", "1", "kept,", "the", "rest", "is", "random"],
        ["1.bias", "0", "of", "1", "kept,", "the", "rest", "is", "random"],
    ]
    assert [name for name, _ in skipped] == ["1.weight", "1.bias"]
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].weight, before)
    with pytest.raises(UserError, match="none of its 4 entries fits"):
        initialise(nn.Conv2d(1, 1, 1), tmp_path / "a.pt", reset_heads=True)


def damaged_copies(whole: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    """Files cut short anywhere, or with one to eight bits flipped anywhere, ends and headers included."""
    dice = random.Random(7)
    for index in range(number):
        content = bytearray(whole)
        if index % 2:
            length = dice.choice([len(whole) - dice.randint(1, 100), dice.randrange(len(whole))])
            yield f"cut to {length} of {len(whole)}", bytes(content[:length])
            continue
        flips = dice.choice([1, 1, 2, 8])
        near = dice.choice([len(whole), 100, -100])
        places = [dice.randrange(near) if near > 0 else dice.randrange(-near) - 100 for _ in range(flips)]
        for place in places:
            content[place] ^= 1 << dice.randrange(8)
        if bytes(content) != whole:
            yield f"flipped {flips} bits at {places}", bytes(content)


def test_of_200_damaged_files_none_is_accepted_and_none_executes_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    checkpoint.save(path, {"model": model.state_dict(), "step": 3, "config": {"a": [1, None, "x"]}})
    torch.load(path, weights_only=True)  # an ordinary file of torch's
    whole = path.read_bytes()
    calls: list[str] = []
    monkeypatch.setattr(os, "system", calls.append)
    copies = list(damaged_copies(whole, 210))
    assert len(copies) >= 200
    for _, content in copies:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.pt cannot be read"):
            checkpoint.load(path)
    assert calls == []


def test_code_in_an_otherwise_sound_file_is_not_executed(tmp_path: Path) -> None:
    """A file with a right checksum whose pickle calls something: the checksum is no signature."""
    checkpoint.save(tmp_path / "a.pt", {"model": Malicious(tmp_path / "was_here"), "step": 1, "config": {}})
    with pytest.raises(UserError, match=r"a\.pt cannot be read"):
        checkpoint.load_model(tmp_path / "a.pt")
    assert not (tmp_path / "was_here").exists()


def test_a_checksum_that_was_cut_off_is_missed(tmp_path: Path) -> None:
    """Another program may rewrite the archive without its comment; what it then holds is nobody's word."""
    checkpoint.save(tmp_path / "a.pt", {"model": {}, "step": 1, "config": {}})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(content, tmp_path / "b.pt")
    with pytest.raises(UserError, match="lost its checksum"):
        checkpoint.load(tmp_path / "b.pt")
