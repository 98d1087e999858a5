"""Precision of the arithmetic: automatic casting, and where it must not reach (coordinates in pixels)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from maskrcnn.errors import Precision as Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Within it products keep the precision of what they multiply, under autocast too."""
    # Not entered where it changes nothing: exported programs have no such thing.
    return (
        torch.autocast(device.type, enabled=False)
        if torch.is_autocast_enabled(device.type)
        else nullcontext()
    )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """torch's automatic casting to ``precision``; none for fp32 and fp64."""
    return torch.autocast(
        device.type, _AUTOCAST.get(precision, torch.bfloat16), enabled=precision in _AUTOCAST
    )
