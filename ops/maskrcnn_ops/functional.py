"""Argument checks of the public operators, and their call of the dispatcher's operators.

torch.compile, torch.export and torch.fx accept the operators and their modules. torch.jit.script, which is deprecated,
does not: it cannot compile variable keyword arguments (``**switches``) or boxes of two types.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch.fx
from torch import Tensor, nn

from .operators import ops
from .switches import Switches

torch.fx.wrap("pool_single_level")  # torch.fx traces the function as one node

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MAX_LEVELS = 8  # kMaxLevels of csrc/geometry.h


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return the output size as (height, width).

    Raises:
        TypeError, ValueError: if ``size`` is not one or two positive integers.
    """
    given: tuple[Any, ...] = tuple(size) if isinstance(size, list | tuple | torch.Size) else (size,)
    if len(given) not in (1, 2):
        raise ValueError(f"output_size: expected one or two integers, found {size!r}")
    try:
        # index() would turn a symbolic size into a constant.
        sides = [s if isinstance(s, int | torch.SymInt) else operator.index(s) for s in given]
    except TypeError:
        raise TypeError(f"output_size: expected integers, found {size!r}") from None
    if any(isinstance(side, int) and side < 1 for side in sides):
        raise ValueError(f"output_size: expected at least 1, found {size!r}")
    return sides[0], sides[-1]  # type: ignore[return-value]


def flag(name: str, value: object) -> bool:
    """Return ``value`` as a bool. Values equal to True or False, such as 1, are accepted; others are a TypeError.

    Args:
        name: of the argument, for the message.
        value: the argument.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or value not in (False, True):
        raise TypeError(f"{name}: expected true or false, found {value!r}")
    return bool(value)


def check_positive(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless ``value`` is a positive, finite number."""
    if not hasattr(value, "__float__"):
        raise TypeError(f"{name}: expected a positive number, found {value!r}")
    if not 0 < value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name}: expected a positive, finite number, found {value!r}")


def check_features(features: Sequence[Tensor]) -> None:
    """Raise TypeError or ValueError unless all levels are floating [N, C, H, W] with one N, C, dtype and device."""
    if len(features) > MAX_LEVELS:
        raise ValueError(f"features: expected at most {MAX_LEVELS} levels, found {len(features)}")
    for feature in features:
        if not isinstance(feature, Tensor):
            raise TypeError(f"features: expected tensors, found {type(feature).__name__}")
        if feature.dim() != 4:
            raise ValueError(f"features: expected [N, C, H, W], found shape {list(feature.shape)}")
        if feature.dtype not in FLOATING:
            raise TypeError(
                f"features: expected float64, float32, bfloat16 or float16, found {feature.dtype}"
            )
        first = features[0]
        if (feature.shape[:2], feature.dtype, feature.device) != (first.shape[:2], first.dtype, first.device):
            raise ValueError(
                "features: expected the same N, C, dtype and device at every level, found "
                f"{list(first.shape)} {first.dtype} {first.device} and "
                f"{list(feature.shape)} {feature.dtype} {feature.device}"
            )


def index_and_boxes(boxes: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Split boxes [K, 5], or a list of one [k, 4] for each image, into image indices [K] and boxes [K, 4]."""
    if isinstance(boxes, Tensor):
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise ValueError(
                f"boxes: expected Tensor[K, 5] or a list of Tensor[k, 4], found {list(boxes.shape)}"
            )
        return boxes[:, 0], boxes[:, 1:]
    if not isinstance(boxes, list | tuple) or not all(isinstance(b, Tensor) for b in boxes):
        raise TypeError(
            f"boxes: expected Tensor[K, 5] or a list of Tensor[k, 4], found {type(boxes).__name__}"
        )
    for index, b in enumerate(boxes):
        if b.dim() != 2 or b.shape[1] != 4:
            raise ValueError(f"boxes: expected Tensor[k, 4] for image {index}, found {list(b.shape)}")
    if not boxes:
        raise ValueError("boxes: expected one Tensor[k, 4] for each image, found an empty list")
    # The dtype of the boxes may be too coarse for indices: bfloat16 cannot represent 257.
    images = [torch.full_like(b[:, 0], i, dtype=torch.int64) for i, b in enumerate(boxes)]
    return torch.cat(images), torch.cat(list(boxes))


def image_index(index: Tensor, images: int) -> Tensor:
    """Convert image indices [K] to int64. On the CPU, an index out of range is a ValueError."""
    if index.device.type == "cpu" and not torch.compiler.is_compiling() and len(index):
        outside = ~((index >= 0) & (index < images))
        if outside.any():
            raise ValueError(
                f"boxes: image index {index[outside][0].item():g} is out of range for {images} images"
            )
    # -1 marks a padded region, so a negative index becomes -2, which the kernels reject.
    return torch.where(index >= 0, index, -2).to(torch.int64)


def pool_regions(
    features: Sequence[Tensor],
    boxes: Tensor,
    image: Tensor,
    output_size: int | Sequence[int],
    scales: Sequence[float],
    switches: Switches,
    box_gradient: bool = False,
) -> Tensor:
    """Run the operator that ``switches`` describe.

    Args:
        features: L maps [N, C, H, W], fine to coarse; [N, C P P, H, W] for position-sensitive operators. They passed
            `check_features`.
        boxes: [R, 4] x1, y1, x2, y2 in pixels, any floating dtype.
        image: [R] int64 image indices. -1 marks a padded region, whose output is 0.
        output_size: P, or (height, width).
        scales: 1 / stride of every level.
        switches: the operator.
        box_gradient: compute gradients of the box coordinates.

    Returns:
        [R, C, P, P] in the dtype and layout of the features.

    Raises:
        TypeError, ValueError: if an argument has a wrong type, shape or device.
    """
    height, width = pair(output_size)
    dtype, channels, group = features[0].dtype, features[0].shape[1], switches.input_channels(height, width)
    if not boxes.is_floating_point():
        raise TypeError(f"boxes: expected a floating dtype, found {boxes.dtype}")
    if boxes.device != features[0].device:
        raise ValueError(
            f"boxes: expected on {features[0].device} like the features, found on {boxes.device}"
        )
    if channels % group:
        raise ValueError(
            f"features: position_sensitive takes a multiple of P * P = {group} channels, found {channels}"
        )
    if box_gradient and switches.bin_rounding:
        raise ValueError("box_gradient: bins of whole cells (bin_rounding) have no gradient by the box")
    wide = torch.float64 in (dtype, boxes.dtype)
    boxes = (
        (boxes if box_gradient else boxes.detach()).to(torch.float64 if wide else torch.float32).contiguous()
    )
    maps = [f.double() for f in features] if wide else list(features)
    numbers = (list(scales), switches.packed())
    if switches.reduction == "max":
        out = ops.roi_maximum(maps, boxes, image, height, width, *numbers)[0]
    else:
        out = ops.roi_sample(maps, boxes, image, None, height, width, *numbers)
    return out.to(dtype)  # type: ignore[no-any-return]


def pool_single_level(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float,
    switches: Switches,
    box_gradient: bool = False,
) -> Tensor:
    """Run an operator with torchvision's calling convention.

    Args:
        input: [N, C, H, W].
        boxes: [K, 5] image index, x1, y1, x2, y2, or a list of one [k, 4] for each image; in pixels.
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        switches: the operator.
        box_gradient: compute gradients of the box coordinates.

    Returns:
        [K, C, P, P] in the dtype and layout of the input.
    """
    check_features([input])
    check_positive("spatial_scale", spatial_scale)
    index, coordinates = index_and_boxes(boxes)
    image = image_index(index, input.shape[0])
    return pool_regions(
        [input], coordinates, image, output_size, [float(spatial_scale)], switches, box_gradient
    )


class RoIModule(nn.Module):
    """Base class of the module forms. It shows the settings in repr.

    Args:
        output_size: P, or (height, width).
        spatial_scale: 1 / stride.
        switches: the operator.
        plain: the operator that the settings alone give. repr shows the switches that differ from it.
        box_gradient: compute gradients of the box coordinates.

    Attributes:
        settings: names of the attributes that repr always shows.
    """

    settings: tuple[str, ...] = ("output_size", "spatial_scale")

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        switches: Switches,
        plain: Switches,
        box_gradient: bool = False,
    ) -> None:
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.switches, self.plain, self.box_gradient = switches, plain, box_gradient

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool [N, C, H, W] to [K, C, P, P] at ``rois`` [K, 5], or at a list of [k, 4].

        The input of a position-sensitive operator is [N, C P P, H, W].
        """
        return pool_single_level(
            input, rois, self.output_size, self.spatial_scale, self.switches, self.box_gradient
        )

    def extra_repr(self) -> str:
        """The settings, and the other arguments of the constructor that differ from their defaults."""
        shown = {name: getattr(self, name) for name in self.settings}
        for name in (f.name for f in fields(Switches)):
            if getattr(self.switches, name) != getattr(self.plain, name):
                shown[name] = getattr(self.switches, name)
        if self.box_gradient:
            shown["box_gradient"] = True
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
