"""This project's operators in ONNX's: what the exporter writes where it meets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18  # its types are those of tensors in Python, not of places in a graph
_INT64, _FLOAT = 7, 1
_NEVER = -1e30  # a score that suppression leaves out


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For each operator of the dispatcher the function that writes it in ONNX."""
    return {
        torch.ops.maskrcnn_ops.nms.default: nms,
        torch.ops.aten.sort.stable: sort,
        torch.ops.torchvision.roi_pool.default: roi_pool,
    }


def roi_pool(features: Any, boxes: Any, scale: float, height: int, width: int) -> tuple[Any, Any]:
    """torchvision's RoIPool as MaxRoiPool; the places of the maxima, its second output, are asked for by nobody."""
    pooled = op.MaxRoiPool(features, boxes, pooled_shape=[height, width], spatial_scale=scale)
    return pooled, pooled


def sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """A stable sort, which the exporter does not know: ONNX's TopK puts the lower of two equal values' places first."""
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def nms(boxes: Any, order: Any, groups: Any, valid: Any, threshold: float) -> Any:
    """Suppression by NonMaxSuppression with one ONNX class per group.

    boxes ``[N, K, 4]``, order, groups, valid ``[N, K]``: as of ``maskrcnn_ops::nms``. A box's rank stands for its
    score, so that equal scores are told apart as they are here. Returns keep ``[N, K]``.
    """
    shape = op.Shape(order)
    images, count = op.Gather(shape, [0]), op.Gather(shape, [1])  # [1] each
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    scalar = op.Constant(value_int=0)
    places = op.Range(scalar, op.Squeeze(count), op.Constant(value_int=1))
    ranks = op.ScatterElements(order, order, op.Expand(places, shape), axis=1)
    scores = op.Neg(op.Cast(ranks, to=_FLOAT))  # [N, K]: 0 for the best, -1, ...
    most = op.ReduceMax(groups, keepdims=0)
    kinds = op.Range(scalar, op.Add(most, op.Constant(value_int=1)), op.Constant(value_int=1))
    own = op.Equal(op.Unsqueeze(groups, [1]), op.Unsqueeze(kinds, [0, 2]))  # [N, groups, K]
    counted = op.And(own, op.Unsqueeze(valid, [1]))
    scores = op.Where(counted, op.Unsqueeze(scores, [1]), op.Constant(value_float=2 * _NEVER))
    kept = op.NonMaxSuppression(
        boxes,
        scores,
        count,
        op.Constant(value_floats=[threshold]),
        op.Constant(value_floats=[_NEVER]),
    )  # [S, 3]: image, group, box
    index = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
    empty = op.Expand(zero, op.Concat(images, count, axis=0))
    ones = op.Expand(one, op.Slice(op.Shape(kept), [0], [1]))
    return op.Cast(op.ScatterND(empty, index, ones), to=9)
