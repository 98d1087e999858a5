"""How a command ends where the disk refuses."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
import torch

from maskrcnn.cli import _status


def refusing(number: int) -> None:
    raise OSError(number, "No space left on device", "/disk/metrics.json")


def test_a_full_disk_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def full(arguments: Sequence[str]) -> None:
        refusing(errno.ENOSPC)

    assert _status(full, []) == 2
    assert capsys.readouterr().err.startswith("error: /disk/metrics.json: No space left on device")
    with pytest.raises(OSError, match="No space left"):
        _status(full, ["debug=true"])


def test_what_is_no_refusal_keeps_its_traceback() -> None:
    def broken(arguments: Sequence[str]) -> None:
        refusing(errno.ENOENT)

    with pytest.raises(FileNotFoundError):
        _status(broken, [])


def test_a_full_gpu_is_answered_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def full(arguments: Sequence[str]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    assert _status(full, []) == 2
    assert "accumulate=4" in (printed := capsys.readouterr().err)
    assert "Tried to allocate 2.00 GiB)" in printed
