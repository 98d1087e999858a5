"""A checkpoint as a model that predicts. Hydra is imported only for files of tools/train.py, and for overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maskrcnn_ops import RoIOp

from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.models import builders
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.training import checkpoint

BUILDERS = {f"{f.__module__}.{f.__name__}": f for f in (builders.mask_rcnn, builders.faster_rcnn)}


class ForPrediction(NamedTuple):
    """What a checkpoint says about how its model is shown images.

    categories: by label, ``id`` and ``name``.
    """

    model: MaskRCNN
    transform: Transform
    categories: list[dict[str, Any]]
    precision: Precision
    size_divisor: int


def load_for_prediction(path: str, overrides: Sequence[str] = (), trust: bool = False) -> ForPrediction:
    """The model of a checkpoint, its averaged weights if it has any, and what it is tested with.

    Args:
        path: a file of tools/train.py or of `maskrcnn.Trainer`.
        overrides: changes of its config, as ``key=value``.
        trust: also call constructors that the config names outside of this project.

    Raises:
        UserError: for a file that is no checkpoint, or does not say how its model is built.
    """
    content = checkpoint.load_model(path)
    check_buildable(path, content["config"])
    if overrides or content["config"]["model"].get("_target_") not in BUILDERS:
        from maskrcnn.config.build import load_configured  # Hydra

        return load_configured(path, overrides, trust)
    config = content["config"]
    model = _built(config["model"])
    load_weights(model, path, content)
    data = config["data"]
    transform = Transform(**{k: v for k, v in data["test_transform"].items() if k != "_target_"})
    divisor = data["test_loader"].get("size_divisor", 32)
    return ForPrediction(model, transform, config["categories"], config["precision"], divisor)


def check_buildable(path: str, config: dict[str, Any]) -> None:
    """Raise UserError for the checkpoint of a model that was built from parts in Python."""
    if config.get("model") is None:
        raise UserError(
            f"checkpoint {path} holds the weights of a model that was built from its parts, and not how to build it: "
            "build it again, give it the entry 'model' of the file by load_state_dict, and call Predictor(model)"
        )


def load_weights(model: MaskRCNN, path: str, content: dict[str, Any]) -> None:
    """Give ``model`` the weights of a checkpoint. Raises UserError where they do not fit."""
    try:
        model.load_state_dict(content["model"] if content.get("ema") is None else content["ema"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit the model of its config: {error}") from error


def _built(recipe: dict[str, Any]) -> MaskRCNN:
    """The model of a `MaskRCNN.recipe`, without reading pretrained weights."""
    arguments = {key: value for key, value in recipe.items() if key != "_target_"}
    if isinstance(operator := arguments["roi_op"], dict):
        arguments["roi_op"] = RoIOp(**{k: v for k, v in operator.items() if k != "_target_"})
    return BUILDERS[recipe["_target_"]](**{**arguments, "weights": None})
