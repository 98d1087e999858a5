"""The dispatcher's operators ``torch.ops.maskrcnn_ops.*``: schemas, reference kernels, shapes and gradients.

The compiled libraries add kernels for CPU and CUDA. Without them, the reference kernels are used.

    out         = roi_sample(features, ..., winner=None)      mean over the points of a bin: linear in the features
    out, winner = roi_maximum(features, ...)                  their maximum, and which point it was
    out         = roi_sample(features, ..., winner=winner)    the value at those points: linear as well
    gradients   = roi_spread(grad, ..., winner)               the adjoint of roi_sample, so each is the other's gradient
    gradient    = roi_box_gradient(grad, features, ...)       of the box coordinates
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import reference, reference_nms
from .switches import Switches

_LIBRARY = torch.library.Library("maskrcnn_ops", "DEF")
_FAMILY = "Tensor boxes, Tensor image"
_NUMBERS = "float[] scales, float[] switches"
_LIBRARY.define(
    f"roi_sample(Tensor[] features, {_FAMILY}, Tensor? winner, SymInt height, SymInt width, {_NUMBERS}) -> Tensor"
)
_LIBRARY.define(
    f"roi_maximum(Tensor[] features, {_FAMILY}, SymInt height, SymInt width, {_NUMBERS}) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    f"roi_spread(Tensor grad, {_FAMILY}, Tensor? winner, SymInt[] shape, {_NUMBERS}, "
    "bool channels_last, bool atomic) -> Tensor[]"
)
_LIBRARY.define(
    f"roi_box_gradient(Tensor grad, Tensor[] features, {_FAMILY}, Tensor? winner, {_NUMBERS}) -> Tensor"
)
_LIBRARY.define("nms(Tensor boxes, Tensor order, Tensor groups, Tensor valid, float threshold) -> Tensor")
_LIBRARY.define(
    "masks_to_rle(Tensor masks, Tensor boxes, SymInt height, SymInt width, SymInt padding, float threshold,"
    " float doubt) -> (Tensor, Tensor, Tensor)"
)

_LIBRARY.define("winograd_input(Tensor map, int first, int last) -> Tensor")
_LIBRARY.define("winograd_gradient(Tensor map, int first, int last) -> Tensor")
_LIBRARY.define("winograd_output(Tensor products, Tensor? bias, Tensor(a!) map, int first) -> ()")

for _name in ("roi_sample", "roi_maximum", "roi_spread", "roi_box_gradient"):
    _LIBRARY.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
_LIBRARY.impl("nms", reference_nms.nms, "CompositeExplicitAutograd")

ops = torch.ops.maskrcnn_ops

_atomic_backward = False


@contextmanager
def atomic_backward(enabled: bool = True) -> Iterator[None]:
    """Context manager in which CUDA backward passes add with atomics, which is sometimes faster.

    The order of the sums is not fixed then. By default the backward pass gathers and is bitwise repeatable. The CPU is
    not affected.
    """
    global _atomic_backward
    before, _atomic_backward = _atomic_backward, enabled
    try:
        yield
    finally:
        _atomic_backward = before


def _shape_of(features: list[Tensor]) -> list[int]:
    return [*features[0].shape[:2], *(side for f in features for side in f.shape[2:])]


def _is_channels_last(feature: Tensor) -> bool:
    return reference.layout_of(feature) == torch.channels_last


def _fake_output(
    features: list[Tensor], boxes: Tensor, height: int, width: int, dtype: torch.dtype, group: int = 1
) -> Tensor:
    first = features[0]
    shape = (boxes.shape[0], first.shape[1] // group, height, width)
    return first.new_empty(shape, dtype=dtype).contiguous(memory_format=reference.layout_of(first))


@torch.library.register_fake("maskrcnn_ops::roi_sample")
def _fake_sample(
    features: list[Tensor],
    boxes: Tensor,
    image: Tensor,
    winner: Tensor | None,
    height: int,
    width: int,
    scales: list[float],
    switches: list[float],
) -> Tensor:
    group = Switches.unpacked(switches, "avg").input_channels(height, width)
    return _fake_output(features, boxes, height, width, features[0].dtype, group)


@torch.library.register_fake("maskrcnn_ops::roi_maximum")
def _fake_maximum(
    features: list[Tensor], boxes: Tensor, image: Tensor, height: int, width: int, *_: Any
) -> tuple[Tensor, Tensor]:
    values = _fake_output(features, boxes, height, width, features[0].dtype)
    return values, _fake_output(features, boxes, height, width, torch.int32)


@torch.library.register_fake("maskrcnn_ops::roi_spread")
def _fake_spread(
    grad: Tensor,
    boxes: Tensor,
    image: Tensor,
    winner: Tensor | None,
    shape: list[int],
    scales: list[float],
    switches: list[float],
    channels_last: bool,
    atomic: bool,
) -> list[Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    sides = zip(shape[2::2], shape[3::2], strict=True)
    return [grad.new_empty((shape[0], shape[1], h, w)).contiguous(memory_format=layout) for h, w in sides]


@torch.library.register_fake("maskrcnn_ops::roi_box_gradient")
def _fake_box_gradient(grad: Tensor, features: list[Tensor], boxes: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(boxes)


@torch.library.register_fake("maskrcnn_ops::nms")
def _fake_nms(boxes: Tensor, order: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid)


def _keep_family(ctx: Any, features: list[Tensor], numbers: tuple[list[float], list[float]]) -> None:
    ctx.shape, ctx.channels_last = _shape_of(features), _is_channels_last(features[0])
    ctx.scales, ctx.switches = numbers


def _feature_gradients(ctx: Any, grad: Tensor, boxes: Tensor, image: Tensor, winner: Tensor | None) -> Any:
    if not any(ctx.needs_input_grad[0]):
        return [None] * (len(ctx.shape) // 2 - 1)
    return ops.roi_spread(
        grad, boxes, image, winner, ctx.shape, ctx.scales, ctx.switches, ctx.channels_last, _atomic_backward
    )


def _box_gradient(
    ctx: Any, grad: Tensor, features: list[Tensor], boxes: Tensor, image: Tensor, winner: Tensor | None
) -> Tensor | None:
    if not ctx.needs_input_grad[1]:
        return None
    return ops.roi_box_gradient(grad, features, boxes, image, winner, ctx.scales, ctx.switches)  # type: ignore[no-any-return]


def _sample_context(ctx: Any, inputs: Any, output: Tensor) -> None:
    features, boxes, image, winner, _, _, *numbers = inputs
    _keep_family(ctx, features, numbers)
    ctx.has_winner = winner is not None
    kept = features if ctx.needs_input_grad[1] else []
    ctx.save_for_backward(boxes, image, *([winner] if ctx.has_winner else []), *kept)


def _sample_backward(ctx: Any, grad: Tensor) -> Any:
    boxes, image, *rest = ctx.saved_tensors
    winner = rest.pop(0) if ctx.has_winner else None
    features = _feature_gradients(ctx, grad, boxes, image, winner)
    return features, _box_gradient(ctx, grad, rest, boxes, image, winner), None, None, None, None, None, None


def _maximum_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    features, boxes, image, _, _, *numbers = inputs
    _keep_family(ctx, features, numbers)
    ctx.mark_non_differentiable(output[1])
    kept = features if ctx.needs_input_grad[1] else []
    ctx.save_for_backward(boxes, image, output[1], *kept)


def _maximum_backward(ctx: Any, grad: Tensor, _: Any) -> Any:
    boxes, image, winner, *features = ctx.saved_tensors
    by_features = _feature_gradients(ctx, grad, boxes, image, winner)
    return by_features, _box_gradient(ctx, grad, features, boxes, image, winner), None, None, None, None, None


def _refuse_second_box_gradient() -> None:
    raise RuntimeError(
        "maskrcnn_ops: second gradients through the box coordinates are not defined; detach the boxes or ask for "
        "box_gradient=False (second gradients of the features are available)"
    )


def _spread_context(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    _, boxes, image, winner, shape, ctx.scales, ctx.switches, _, _ = inputs
    ctx.output, ctx.has_winner = inputs[0].shape[2:], winner is not None
    ctx.sides = list(zip(shape[2::2], shape[3::2], strict=True))
    ctx.images, ctx.channels = shape[:2]
    ctx.save_for_backward(boxes, image, *([winner] if ctx.has_winner else []))


def _spread_backward(ctx: Any, grads: list[Tensor | None]) -> Any:
    boxes, image, *rest = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        _refuse_second_box_gradient()
    like = next(g for g in grads if g is not None)
    maps = [
        like.new_zeros(ctx.images, ctx.channels, h, w) if g is None else g
        for g, (h, w) in zip(grads, ctx.sides, strict=True)
    ]
    winner = rest[0] if ctx.has_winner else None
    out = ops.roi_sample(maps, boxes, image, winner, *ctx.output, ctx.scales, ctx.switches)
    return out, None, None, None, None, None, None, None, None


def _box_gradient_backward(ctx: Any, grad: Tensor) -> Any:
    _refuse_second_box_gradient()


torch.library.register_autograd("maskrcnn_ops::roi_sample", _sample_backward, setup_context=_sample_context)
torch.library.register_autograd(
    "maskrcnn_ops::roi_maximum", _maximum_backward, setup_context=_maximum_context
)
torch.library.register_autograd("maskrcnn_ops::roi_spread", _spread_backward, setup_context=_spread_context)
torch.library.register_autograd("maskrcnn_ops::roi_box_gradient", _box_gradient_backward)
