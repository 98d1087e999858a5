"""Mask R-CNN with interchangeable RoI operators. See README.md for the commands, `maskrcnn.models` for the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskrcnn.prediction.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> object:
    """`maskrcnn.Predictor`, imported when it is asked for: who wants a box function need not load a detector."""
    if name == "Predictor":
        from maskrcnn.prediction.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'maskrcnn' has no attribute {name!r}")
