"""Mask R-CNN with exchangeable RoI operators.

The public names below are imported lazily, so that ``import maskrcnn`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskrcnn.config.trained import load_for_prediction as load_for_prediction
    from maskrcnn.data.transforms import Transform
    from maskrcnn.errors import Interrupted, UserError
    from maskrcnn.evaluation.settings import Evaluation
    from maskrcnn.models.builders import faster_rcnn, mask_rcnn
    from maskrcnn.prediction.predictor import Predictor
    from maskrcnn.training.initialise import initialise
    from maskrcnn.training.settings import Checkpoints, Log, Schedule
    from maskrcnn.training.trainer import Trainer

__all__ = [
    "Checkpoints",
    "Evaluation",
    "Interrupted",
    "Log",
    "Predictor",
    "Schedule",
    "Trainer",
    "Transform",
    "UserError",
    "faster_rcnn",
    "initialise",
    "mask_rcnn",
]

_HOMES = {
    "Checkpoints": "training.settings",
    "Evaluation": "evaluation.settings",
    "Interrupted": "errors",
    "Log": "training.settings",
    "Predictor": "prediction.predictor",
    "Schedule": "training.settings",
    "Trainer": "training.trainer",
    "Transform": "data.transforms",
    "UserError": "errors",
    "faster_rcnn": "models.builders",
    "initialise": "training.initialise",
    "load_for_prediction": "config.trained",  # for `Predictor`, which must not import `config`
    "mask_rcnn": "models.builders",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskrcnn' has no attribute {name!r}")
    return getattr(import_module(f"maskrcnn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
