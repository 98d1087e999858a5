"""The running statistics of batch norms that learn: what a forward pass changes in a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a forward pass changes the model (batch norm that is not frozen)."""
    return any(norm.track_running_stats for norm in _batch_norms(model))


@contextmanager
def unchanged_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm uses the batch's statistics within it, but does not add them to the running ones."""
    norms = _batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
