"""Checkpoints: written atomically, and read without executing code. Those of version 0.1.0 still load."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.errors import UserError
from maskrcnn.models import hub
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
            torch.save({**content, _KEY: "sha256"}, file)
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
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # torch's archive writer reports a full disk like this
            raise OSError(str(error)) from error
        raise


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
    about = {key: content[key] for key in ("step", "config")}
    hub.write_tensors(out, content.get("ema") or content["model"], about)


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
    if path.stat().st_size < _COMMENT:
        return None
    content = np.memmap(path, np.uint8, "r")
    comment = content[-_COMMENT:].tobytes()
    if not comment.startswith(_MARK):
        return None
    return comment == _MARK + hashlib.sha256(content[:-_COMMENT].data).hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Flush the folder, so that the renaming survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# New names of the modules and classes of version 0.1.0.
_MODULES = {
    "maskrcnn.data.coco": "maskrcnn.data.formats.coco",
    "maskrcnn.data.sbd": "maskrcnn.data.formats.sbd",
    "maskrcnn.data.shapes": "maskrcnn.data.formats.shapes",
    "maskrcnn.data.voc": "maskrcnn.data.formats.voc",
    "maskrcnn.models.backbones": "maskrcnn.models.backbones.resnet",
    "maskrcnn.models.torchvision_backbones": "maskrcnn.models.backbones.torchvision",
    "maskrcnn.models.box_head": "maskrcnn.models.heads.box",
    "maskrcnn.models.mask_head": "maskrcnn.models.heads.mask",
    "maskrcnn.models.keypoint_head": "maskrcnn.models.heads.keypoint",
    "maskrcnn.models.trunks": "maskrcnn.models.heads.trunks",
    "maskrcnn.models.mask_rcnn": "maskrcnn.models.detector",
}
_CLASSES = {
    f"maskrcnn.models.{old}": f"maskrcnn.models.heads.trunks.{old.rpartition('.')[2]}"
    for old in ("heads.box.TwoFCTrunk", "heads.mask.ConvTrunk", "backbones.resnet.Res5Trunk")
}


def with_present_names(node: Any) -> Any:
    """Rename every ``_target_`` and key of a stored config of version 0.1.0 to its present name.

    Args:
        node: nested dictionaries and lists.
    """
    if isinstance(node, list):
        return [with_present_names(item) for item in node]
    if not isinstance(node, dict):
        return node
    present = {k: _present(v) if k == "_target_" else with_present_names(v) for k, v in node.items()}
    evaluation = present.get("evaluation")
    if isinstance(evaluation, dict) and "fast" in evaluation:
        del evaluation["fast"]
        evaluation["backend"] = None  # both packages give the same metrics
    return present


def _present(target: str) -> str:
    module, _, name = str(target).rpartition(".")
    present = f"{_MODULES.get(module, module)}.{name}"
    return _CLASSES.get(present, present)
