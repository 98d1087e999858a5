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

from . import nms, reference
from .switches import Switches

_LIBRARY = torch.library.Library("maskrcnn_ops", "DEF")
_FAMILY = "Tensor boxes, Tensor image"
_NUMBERS = "float[] scales, float[] switches"
for _schema in (
    f"roi_sample(Tensor[] features, {_FAMILY}, Tensor? winner, SymInt height, SymInt width, {_NUMBERS}) -> Tensor",
    f"roi_maximum(Tensor[] features, {_FAMILY}, SymInt height, SymInt width, {_NUMBERS}) -> (Tensor, Tensor)",
    f"roi_spread(Tensor grad, {_FAMILY}, Tensor? winner, SymInt[] shape, {_NUMBERS}, "
    "bool channels_last, bool atomic) -> Tensor[]",
    f"roi_box_gradient(Tensor grad, Tensor[] features, {_FAMILY}, Tensor? winner, {_NUMBERS}) -> Tensor",
    "nms(Tensor boxes, Tensor order, Tensor groups, Tensor valid, float threshold) -> Tensor",
    "masks_to_rle(Tensor masks, Tensor boxes, SymInt height, SymInt width, SymInt padding, float threshold,"
    " float doubt) -> (Tensor, Tensor, Tensor)",
    "winograd_input(Tensor map, int first, int last) -> Tensor",
    "winograd_gradient(Tensor map, int first, int last) -> Tensor",
    "winograd_output(Tensor products, Tensor? bias, Tensor(a!) map, int first) -> ()",
):
    _LIBRARY.define(_schema)
for _name in ("roi_sample", "roi_maximum", "roi_spread", "roi_box_gradient"):
    _LIBRARY.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
_LIBRARY.impl("nms", nms.nms, "CompositeExplicitAutograd")

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


def _fake_output(
    features: list[Tensor], boxes: Tensor, height: int, width: int, dtype: torch.dtype, group: int = 1
) -> Tensor:
    first = features[0]
    shape = (boxes.shape[0], first.shape[1] // group, height, width)
    return first.new_empty(shape, dtype=dtype).contiguous(memory_format=reference.layout_of(first))


@torch.library.register_fake("maskrcnn_ops::roi_sample")
def _fake_sample(features: list[Tensor], boxes: Tensor, *others: Any) -> Tensor:
    _, _, height, width, _, switches = others
    group = Switches.unpacked(switches, "avg").input_channels(height, width)
    return _fake_output(features, boxes, height, width, features[0].dtype, group)


@torch.library.register_fake("maskrcnn_ops::roi_maximum")
def _fake_maximum(
    features: list[Tensor], boxes: Tensor, image: Tensor, height: int, width: int, *_: Any
) -> tuple[Tensor, Tensor]:
    values = _fake_output(features, boxes, height, width, features[0].dtype)
    return values, _fake_output(features, boxes, height, width, torch.int32)


@torch.library.register_fake("maskrcnn_ops::roi_spread")
def _fake_spread(grad: Tensor, *others: Any) -> list[Tensor]:
    _, _, _, shape, _, _, channels_last, _ = others
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = (grad.new_empty((*shape[:2], *size)) for size in reference.sizes_of(shape))
    return [m.contiguous(memory_format=layout) for m in maps]


@torch.library.register_fake("maskrcnn_ops::roi_box_gradient")
def _fake_box_gradient(grad: Tensor, features: list[Tensor], boxes: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(boxes)


@torch.library.register_fake("maskrcnn_ops::nms")
def _fake_nms(boxes: Tensor, order: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid)


def _keep(
    ctx: Any,
    features: list[Tensor],
    boxes: Tensor,
    image: Tensor,
    winner: Tensor | None,
    scales: list[float],
    switches: list[float],
) -> None:
    ctx.shape, ctx.scales, ctx.switches = reference.shape_of(features), scales, switches
    ctx.channels_last = reference.layout_of(features[0]) == torch.channels_last
    ctx.save_for_backward(boxes, image, winner, *(features if ctx.needs_input_grad[1] else []))


def _gradients(ctx: Any, grad: Tensor) -> tuple[list[Any], Tensor | None]:
    """The gradients of the features and of the boxes, as far as they are needed."""
    boxes, image, winner, *features = ctx.saved_tensors
    numbers = ctx.scales, ctx.switches
    by_features, by_boxes = [None] * (len(ctx.shape) // 2 - 1), None
    if any(ctx.needs_input_grad[0]):
        layout = ctx.channels_last, _atomic_backward
        by_features = ops.roi_spread(grad, boxes, image, winner, ctx.shape, *numbers, *layout)
    if ctx.needs_input_grad[1]:
        by_boxes = ops.roi_box_gradient(grad, features, boxes, image, winner, *numbers)
    return by_features, by_boxes


def _sample_context(ctx: Any, inputs: Any, output: Tensor) -> None:
    features, boxes, image, winner, _, _, *numbers = inputs
    _keep(ctx, features, boxes, image, winner, *numbers)


def _sample_backward(ctx: Any, grad: Tensor) -> Any:
    return *_gradients(ctx, grad), *[None] * 6


def _maximum_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    features, boxes, image, _, _, *numbers = inputs
    ctx.mark_non_differentiable(output[1])
    _keep(ctx, features, boxes, image, output[1], *numbers)


def _maximum_backward(ctx: Any, grad: Tensor, _: Any) -> Any:
    return *_gradients(ctx, grad), *[None] * 5


def _spread_context(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
    grad, boxes, image, winner, ctx.shape, ctx.scales, ctx.switches, _, _ = inputs
    ctx.output = grad.shape[2:]
    ctx.save_for_backward(boxes, image, winner)


def _spread_backward(ctx: Any, grads: list[Tensor | None]) -> Any:
    if ctx.needs_input_grad[1]:
        _refuse_second_box_gradient()
    like = next(g for g in grads if g is not None)
    sizes = reference.sizes_of(ctx.shape)
    maps = [
        like.new_zeros(*ctx.shape[:2], *size) if g is None else g
        for g, size in zip(grads, sizes, strict=True)
    ]
    out = ops.roi_sample(maps, *ctx.saved_tensors, *ctx.output, ctx.scales, ctx.switches)
    return out, *[None] * 8


def _refuse_second_box_gradient(*_: Any) -> None:
    raise RuntimeError(
        "maskrcnn_ops: second gradients through the box coordinates are not defined; detach the boxes or ask for "
        "box_gradient=False (second gradients of the features are available)"
    )


for _name, _backward, _context in (
    ("roi_sample", _sample_backward, _sample_context),
    ("roi_maximum", _maximum_backward, _maximum_context),
    ("roi_spread", _spread_backward, _spread_context),
    ("roi_box_gradient", _refuse_second_box_gradient, None),
):
    torch.library.register_autograd(f"maskrcnn_ops::{_name}", _backward, setup_context=_context)
