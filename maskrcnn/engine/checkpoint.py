"""Checkpoints: written whole or not at all, read without executing code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors and plain values) to ``path``; a crash leaves the former file or none, never half."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. Raises UserError where there is none, or it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, KeyError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, expected a dictionary")
    return content


def load_model(path: str | Path) -> dict[str, Any]:
    """A training checkpoint with ``model``, ``step`` and ``config``."""
    content = load(path)
    absent = [key for key in ("model", "step", "config") if key not in content]
    if absent:
        raise UserError(f"checkpoint {path} is not one of tools/train.py: it has no {', '.join(absent)}")
    return content


def initialise(model: nn.Module, source: str | Path, reset_heads: bool) -> list[tuple[str, str]]:
    """Start ``model`` from the weights in ``source`` (a checkpoint, or a state dict).

    Layers that ``source`` lacks or holds in another shape keep their random values if ``reset_heads``.
    Returns those: (name, reason). Raises UserError for them otherwise, or where nothing at all fits.
    """
    content = load(source)
    state: Mapping[str, Tensor] = content.get("model", content)
    own = model.state_dict()
    skipped = [(name, reason) for name, value in own.items() if (reason := _mismatch(name, value, state))]
    skipped += [(name, "not in this model") for name in state if name not in own]
    if len([name for name, _ in skipped if name in own]) == len(own):
        raise UserError(
            f"init={source}: none of its {len(state)} entries fits this model; is it of another model?"
        )
    if skipped and not reset_heads:
        raise UserError(
            f"init={source} does not fit this model:\n{_table(skipped)}\n"
            "set init.reset_heads=true to start these layers anew and keep the others"
        )
    dropped = {name for name, _ in skipped}
    model.load_state_dict({k: v for k, v in state.items() if k not in dropped}, strict=False)
    return skipped


def _mismatch(name: str, value: Tensor, state: Mapping[str, Tensor]) -> str | None:
    if name not in state:
        return "not in the file"
    if state[name].shape != value.shape:
        return f"{list(state[name].shape)} in the file, {list(value.shape)} here"
    return None


def _table(rows: list[tuple[str, str]], most: int = 12) -> str:
    lines = [f"  {name}: {reason}" for name, reason in rows[:most]]
    return "\n".join([*lines, f"  and {len(rows) - most} more"] if len(rows) > most else lines)
