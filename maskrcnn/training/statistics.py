"""The running statistics of batch norms that learn: what a forward pass changes in a model."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a forward pass changes the model (batch norm that is not frozen)."""
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return any(norm.track_running_stats for norm in norms)
