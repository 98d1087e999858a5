"""Fills in the numbers of channels that a model's config leaves to its backbone."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from maskrcnn.errors import UserError


def fill_channels(model: DictConfig, channels: Mapping[int, int] | None) -> None:
    """Replace null in the pyramid's ``in_channels`` and ``out_channels``. All other numbers refer to these.

    Args:
        model: the node of a model, changed in place.
        channels: number of channels of the backbone's maps by stride; None if the backbone does not state it.

    Raises:
        UserError: a number is null and the backbone does not state it.
    """
    pyramid = model.pyramid
    missing = [key for key in ("in_channels", "out_channels") if key in pyramid and pyramid[key] is None]
    if missing and channels is None:
        raise UserError(
            f"model.pyramid.{missing[0]} is null, but the backbone {model.backbone._target_} has no attribute "
            "`channels` (numbers of channels by stride): add it, or set the key"
        )
    for key in missing:
        assert channels is not None
        pyramid[key] = list(channels.values()) if key == "in_channels" else channels[max(channels)]
