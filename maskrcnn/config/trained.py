"""Loads a checkpoint for prediction. Hydra is imported only for files of ``maskrcnn train``, and for overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maskrcnn_ops import RoIOp

from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.models import builders
from maskrcnn.models.convolution import use_fast_convolutions
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.training import checkpoint

BUILDERS = {f"{f.__module__}.{f.__name__}": f for f in (builders.mask_rcnn, builders.faster_rcnn)}


class ForPrediction(NamedTuple):
    """A model with its settings for prediction.

    Attributes:
        model: the model.
        transform: how images are resized.
        categories: ``id`` and ``name`` by label.
        precision: precision of the arithmetic.
        size_divisor: the sides of the canvas are multiples of this.
    """

    model: MaskRCNN
    transform: Transform
    categories: list[dict[str, Any]]
    precision: Precision
    size_divisor: int


def load_for_prediction(path: str, overrides: Sequence[str] = (), trust: bool = False) -> ForPrediction:
    """Load the model of a checkpoint (with averaged weights if there are any) and its settings.

    Args:
        path: a file of ``maskrcnn train`` or `maskrcnn.Trainer`.
        overrides: changes of its config, as ``key=value``.
        trust: also call constructors outside this project that the config names.

    Raises:
        UserError: the file is not a checkpoint, or does not state how its model is built.
    """
    content = checkpoint.load_model(path)
    check_buildable(path, content["config"])
    if overrides or content["config"]["model"].get("_target_") not in BUILDERS:
        return _configured(path, overrides, trust)
    config = content["config"]
    model = _built(config["model"])
    load_weights(model, path, content)
    use_fast_convolutions(model)
    data = config["data"]
    transform = Transform(**{k: v for k, v in data["test_transform"].items() if k != "_target_"})
    divisor = data["test_loader"].get("size_divisor", 32)
    return ForPrediction(model, transform, config["categories"], config["precision"], divisor)


def _configured(path: str, overrides: Sequence[str], trust: bool) -> ForPrediction:
    """`load_for_prediction` for a config that Hydra composed."""
    from maskrcnn.config.build import load_trained  # lazily, because it imports Hydra
    from maskrcnn.config.compose import build, plain

    config, model, _ = load_trained(path, overrides, trust)
    transform, divisor = build(config.data.test_transform), config.data.test_loader.size_divisor
    return ForPrediction(model, transform, plain(config.categories), config.precision, divisor)


def check_buildable(path: str, config: dict[str, Any]) -> None:
    """Raise UserError for the checkpoint of a model that was built from parts in Python."""
    if config.get("model") is None:
        raise UserError(
            f"checkpoint {path} holds the weights of a model that was built from its parts, and not how to build it: "
            "build it again, give it the entry 'model' of the file by load_state_dict, and call Predictor(model)"
        )


def load_weights(model: MaskRCNN, path: str, content: dict[str, Any]) -> None:
    """Load the weights of a checkpoint into a model. Raises UserError if they do not fit.

    Args:
        model: changed in place.
        path: the file, for messages.
        content: its content.
    """
    try:
        model.load_state_dict(content.get("ema") or content["model"])
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit the model of its config: {error}") from error


def _built(recipe: dict[str, Any]) -> MaskRCNN:
    """Build the model of a `MaskRCNN.recipe` without reading pretrained weights."""
    arguments = {key: value for key, value in recipe.items() if key != "_target_"}
    if isinstance(operator := arguments["roi_op"], dict):
        arguments["roi_op"] = RoIOp(**{k: v for k, v in operator.items() if k != "_target_"})
    return BUILDERS[recipe["_target_"]](**{**arguments, "weights": None})
