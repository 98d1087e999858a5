"""Augmentations of training images, for the list ``augmentations`` of a `Transform`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchvision.transforms import v2

from maskrcnn.data.augmentations.adapters import FromAlbumentations, FromTorchvision
from maskrcnn.data.augmentations.geometry import Affine, Crop, Flip, QuarterTurns, ScaleJitter
from maskrcnn.data.augmentations.mixing import CopyPaste, Mosaic
from maskrcnn.data.augmentations.pixels import Blur, Colour, Noise
from maskrcnn.data.augmentations.protocol import Augmentation, Others
from maskrcnn.errors import UserError

__all__ = ["PRESETS", "Augmentation", "FromAlbumentations", "FromTorchvision", "Others", "as_list"]
__all__ += ["Affine", "Blur", "Colour", "CopyPaste", "Crop", "Flip", "Mosaic", "Noise"]
__all__ += ["QuarterTurns", "ScaleJitter"]

# The presets have no flips, because `Transform` has them, and no copy-paste, because it needs masks.
PRESETS: dict[str, tuple[Augmentation, ...]] = {
    "light": (ScaleJitter(0.8, 1.25, probability=0.5), Colour(0.2, 0.2, 0.2, 0.02)),
    "strong": (
        ScaleJitter(0.5, 2.0),
        Affine(degrees=10, shear=5, probability=0.3),
        Colour(0.4, 0.4, 0.4, 0.05, grey=0.05),
        Blur((0.3, 1.5), probability=0.1),
        Noise(10, probability=0.1),
    ),
}


def as_list(given: str | Sequence[Any] | None) -> tuple[Augmentation, ...]:
    """Convert a setting to a list of augmentations.

    Args:
        given: the name of a preset (``light``, ``strong``), or a list of augmentations, names of presets, and
            transforms of `torchvision.transforms.v2` and albumentations; None is an empty list.

    Raises:
        UserError: anything else.
    """
    items = [given] if isinstance(given, str) else given or []
    return tuple(augmentation for item in items for augmentation in _augmentations(item))


def _augmentations(item: Any) -> Sequence[Augmentation]:
    if isinstance(item, str):
        if item not in PRESETS:
            raise UserError(f"augmentations: there is no preset {item!r}; there are {', '.join(PRESETS)}")
        return PRESETS[item]
    if isinstance(item, v2.Transform):
        return [FromTorchvision(item)]
    if any(kind.__module__.partition(".")[0] == "albumentations" for kind in type(item).__mro__):
        return [FromAlbumentations(item)]
    if isinstance(item, type) or not isinstance(item, Callable):  # type: ignore[arg-type]
        raise UserError(
            f"augmentations: {item!r} is no augmentation; expected the name of a preset, a callable "
            "(example, rng, others) -> example, or a transform of torchvision.transforms.v2 or albumentations"
        )
    return [item]
