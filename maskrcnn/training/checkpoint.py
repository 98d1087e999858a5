"""Checkpoints: written atomically, and read without executing code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import torch

from maskrcnn.errors import UserError
from maskrcnn.models import hub
from maskrcnn.training.renamed import with_present_names
from maskrcnn.weights.files import read_torch, unreadable

# torch writes a zip archive, which ends with a comment. We store the hash of everything before it there.
_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64
_KEY = "checksum"  # in the content: a file with this key but without the comment is damaged


def save(path: Path, content: dict[str, Any], former: Path | None = None) -> None:
    """Write a checkpoint with a checksum. After a crash, the file is the old one or missing, but never incomplete.

    ``torch.load(path, weights_only=True)`` can read it, too.

    Args:
        path: the file.
        content: tensors and plain values.
        former: where to move the file that is at ``path``; None overwrites it.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb+") as file:
            _write(content, file)
            file.seek(-2, os.SEEK_END)  # the length field of the archive's comment, which torch leaves empty
            file.write(_COMMENT.to_bytes(2, "little"))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0, os.SEEK_END)
            file.write(_MARK + digest.encode())
            file.flush()
            os.fsync(file.fileno())
        if former is not None:
            path.replace(former)
        partial.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write(content: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save({**content, _KEY: "sha256"}, file)
    except RuntimeError as error:  # torch's archive writer reports a full disk like this
        raise OSError(str(error)) from error


def load(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Load a checkpoint, or another program's state dict, to the CPU. No code in the file is executed.

    Args:
        path: a torch or safetensors file, or its address on the Hub (``hf://user/repo/file``).
        mmap: map the tensors of a torch file into memory instead of reading them.

    Raises:
        UserError: the file does not exist or cannot be read, or its checksum is wrong.
    """
    path = hub.local_path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if path.suffix == hub.SUFFIX:
        tensors, about = hub.read_tensors(path)
        return {"model": tensors, **about} if about else dict(tensors)
    try:
        whole = _is_whole(path)
        content = None if whole is False else read_torch(path, mmap)
    except Exception as error:  # a damaged pickle can raise any exception
        raise UserError(f"checkpoint {path} cannot be read: {unreadable(path, error)}") from error
    if whole is False:
        raise UserError(f"checkpoint {path} cannot be read: it is damaged (its checksum is wrong)")
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, expected a dictionary")
    if whole is None and _KEY in content:
        raise UserError(f"checkpoint {path} cannot be read: it is damaged (it has lost its checksum)")
    content.pop(_KEY, None)
    return content


def to_safetensors(path: str | Path, out: Path) -> None:
    """Convert a training checkpoint to safetensors.

    The file has the weights (the averaged ones if there are any), the config and the step. It can be used in place of
    the checkpoint, except to resume the run.

    Args:
        path: the checkpoint.
        out: the file to write.
    """
    content = load_model(path)
    weights = content["model"] if content.get("ema") is None else content["ema"]
    hub.write_tensors(out, weights, {"step": content["step"], "config": content["config"]})


def load_model(
    path: str | Path, keys: Collection[str] = ("model", "step", "config"), mmap: bool = False
) -> dict[str, Any]:
    """Load a training checkpoint.

    Args:
        path: see `load`.
        keys: keys that it must have.
        mmap: see `load`.

    Returns:
        The content, with a config that uses the present names of classes.

    Raises:
        UserError: the file cannot be read, or is not a training checkpoint.
    """
    content = load(path, mmap)
    absent = [key for key in keys if key not in content]
    if absent:
        raise UserError(f"checkpoint {path} is not one of tools/train.py: it has no {', '.join(absent)}")
    if "config" in content:
        content["config"] = with_present_names(content["config"])
    return content


def _is_whole(path: Path) -> bool | None:
    """Whether the content matches the checksum; None without a checksum."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END) - _COMMENT
        if length < 0:
            return None
        file.seek(length)
        comment = file.read()
        if not comment.startswith(_MARK):
            return None
        file.seek(0)
        digest = hashlib.sha256()
        while length > 0 and (chunk := file.read(min(length, 1 << 20))):
            digest.update(chunk)
            length -= len(chunk)
    return comment == _MARK + digest.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Flush the folder, so that the renaming survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
