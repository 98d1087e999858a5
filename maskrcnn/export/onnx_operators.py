"""Translations of this project's operators to ONNX operators, for the exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18  # opset18's annotations are those of Python tensors, not of graph values
_INT64, _FLOAT = 7, 1
_NEVER = -1e30  # a score that suppression ignores


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The ONNX translation of each operator of the dispatcher."""
    return {
        torch.ops.maskrcnn_ops.nms.default: nms,
        torch.ops.aten.sort.stable: sort,
        torch.ops.torchvision.roi_pool.default: roi_pool,
    }


def roi_pool(features: Any, boxes: Any, scale: float, height: int, width: int) -> tuple[Any, Any]:
    """torchvision's RoIPool as MaxRoiPool. The second output, the indices of the maxima, is never used."""
    pooled = op.MaxRoiPool(features, boxes, pooled_shape=[height, width], spatial_scale=scale)
    return pooled, pooled


def sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """A stable sort, which the exporter does not support.

    ONNX's TopK puts the lower index of two equal values first.
    """
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def nms(boxes: Any, order: Any, groups: Any, valid: Any, threshold: float) -> Any:
    """Suppression by NonMaxSuppression with one ONNX class per group.

    A box's rank replaces its score, so that equal scores keep their order.

    Args:
        boxes: ``[N, K, 4]``.
        order: ``[N, K]``, as for ``maskrcnn_ops::nms``.
        groups: ``[N, K]``, as for ``maskrcnn_ops::nms``.
        valid: ``[N, K]``, as for ``maskrcnn_ops::nms``.
        threshold: IoU threshold.

    Returns:
        keep ``[N, K]``.
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
        boxes, scores, count, op.Constant(value_floats=[threshold]), op.Constant(value_floats=[_NEVER])
    )  # [S, 3]: image, group, box
    index = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
    empty = op.Expand(zero, op.Concat(images, count, axis=0))
    ones = op.Expand(one, op.Slice(op.Shape(kept), [0], [1]))
    return op.Cast(op.ScatterND(empty, index, ones), to=9)
