"""Initialises a model from a checkpoint, a state dict, or another framework's published file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models import hub
from maskrcnn.models.backbones.pretrained import inflated
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.training import checkpoint
from maskrcnn.weights import read_weights, translated
from maskrcnn.weights.files import state_of


class Start(NamedTuple):
    """Result of `initialise`.

    Attributes:
        skipped: (name, reason) of every entry that was not loaded.
        words: lines that describe what was loaded.
    """

    skipped: list[tuple[str, str]]
    words: list[str]


def initialise(model: nn.Module, source: str | Path, reset_heads: bool = False) -> Start:
    """Load the weights in a file into a model.

    If the model does not have three input channels, its first convolution gets the mean of the file's RGB filters.

    Args:
        model: changed in place.
        source: a checkpoint, or a state dict of this project, of torchvision's detectors or of Detectron2 (``.pth``,
            ``.pkl`` or ``.safetensors``), or the address of a file on the Hub (``hf://user/repo/file``).
        reset_heads: keep the random values of layers that are missing in the file or have another shape there.

    Raises:
        UserError: an entry does not fit and ``reset_heads`` is False, no entry fits, or the backbone differs.
    """
    state = _read(source)
    state, words = translated(state, model) if isinstance(model, MaskRCNN) else (dict(state), [])
    own = model.state_dict()
    words += _inflate(state, own)
    skipped = [(name, reason) for name, value in own.items() if (reason := _mismatch(name, value, state))]
    skipped += [(name, "not in this model") for name in state if name not in own]
    dropped = {name for name, _ in skipped}
    if own.keys() <= dropped:
        raise UserError(
            f"init={source}: none of its {len(state)} entries fits this model; is it of another model?"
        )
    if skipped and not reset_heads:
        raise UserError(
            f"init={source} does not fit this model:\n{_table(skipped)}\n"
            "set init.reset_heads=true to initialise these layers at random and keep the others"
        )
    features = [(name, reason) for name, reason in skipped if name.startswith(("backbone.", "pyramid."))]
    if others := [(name, reason) for name, reason in features if name in own and name in state]:
        raise UserError(
            f"init={source} is of a model with another backbone or pyramid; init.reset_heads=true is for other heads. "
            f"Give the model that the weights are of (model=...):\n{_table(others)}"
        )
    model.load_state_dict({k: v for k, v in state.items() if k not in dropped}, strict=False)
    return Start(skipped, words + kept(own, dropped))


def norms_of(source: str | Path) -> tuple[str, int]:
    """Return the backbone's norm and the number of frozen stages that a file's weights were trained with.

    A checkpoint's config has them. In other files, running statistics with a count of batches were trained, and those
    without a count were frozen.
    """
    path = hub.local_path(source)
    if path.suffix == ".pkl":
        return "frozen_bn", 2
    content = checkpoint.load(path)
    if (content.get("config") or {}).get("model") is not None:  # missing for a model from custom parts
        model = content["config"]["model"]
        backbone = (
            model["backbone"] if isinstance(model["backbone"], dict) else model
        )  # the arguments of `mask_rcnn(...)`
        return str(backbone["norm"]), int(backbone.get("frozen_stages") or 0)
    learned = any(name.endswith("num_batches_tracked") for name in state_of(content))
    return ("bn", 0) if learned else ("frozen_bn", 2)


def kept(own: Mapping[str, Tensor], dropped: set[str]) -> list[str]:
    """List for each part of the model how many of its entries were loaded, one line each.

    Args:
        own: the model's state dict.
        dropped: names of entries that were not loaded.
    """
    parts: dict[str, list[bool]] = {}
    for name in own:
        parts.setdefault(".".join(name.split(".")[:2]), []).append(name not in dropped)
    width = max(map(len, parts))
    return [
        f"  {part:{width}}  {sum(taken):4} of {len(taken):4} kept{'' if all(taken) else ', the rest is random'}"
        for part, taken in parts.items()
    ]


def _read(source: str | Path) -> Mapping[str, Tensor]:
    path = hub.local_path(source)
    if path.suffix == ".pkl":
        return read_weights(path)
    content = checkpoint.load(path)
    # A run with averaged weights evaluates those.
    return state_of(content.get("ema") or content)


def _inflate(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Adapt the first RGB convolution in ``state`` to the model's input channels. Returns lines to print."""
    first = next(
        (name for name, value in own.items() if name.startswith("backbone.") and value.dim() == 4), None
    )
    if first is None or first not in state or state[first].dim() != 4:
        return []
    channels, found = own[first].shape[1], state[first].shape[1]
    if found != 3 or channels == 3:
        return []
    state[first] = inflated(state[first], channels)
    return [f"{first}: the mean of the filters for 3 channels, for each of {channels}"]


def _mismatch(name: str, value: Tensor, state: Mapping[str, Tensor]) -> str | None:
    if name not in state:
        return "not in the file"
    if state[name].shape != value.shape:
        return f"{list(state[name].shape)} in the file, {list(value.shape)} here"
    return None


def _table(rows: list[tuple[str, str]], most: int = 12) -> str:
    lines = [f"  {name}: {reason}" for name, reason in rows[:most]]
    return "\n".join([*lines, f"  and {len(rows) - most} more"] if len(rows) > most else lines)
