"""Precision of the arithmetic: autocast, and where it must not be used (coordinates in pixels, losses)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from maskrcnn.errors import Precision as Precision

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products keep the precision of their factors, also under autocast."""
    # Do not enter it without need, because exported programs do not support it.
    return (
        torch.autocast(device.type, enabled=False)
        if torch.is_autocast_enabled(device.type)
        else nullcontext()
    )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """torch's autocast to ``precision`` on ``device``; a context without effect for fp32 and fp64."""
    return torch.autocast(
        device.type, _AUTOCAST.get(precision, torch.bfloat16), enabled=precision in _AUTOCAST
    )


def full_precision(x: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32. Keep float32 and float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
