"""Where half precision must not reach: places in pixels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Within it products keep the precision of what they multiply, under autocast too."""
    # Not entered where it changes nothing: exported programs have no such thing.
    return (
        torch.autocast(device.type, enabled=False)
        if torch.is_autocast_enabled(device.type)
        else nullcontext()
    )
