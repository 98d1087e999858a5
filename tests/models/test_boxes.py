"""Geometry against torchvision, hand-computed numbers and the identities it must obey."""

import math

import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskrcnn.models import boxes as box_ops


def random_boxes(count: int, seed: int, size: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * size
    return torch.cat([corners.amin(1), corners.amax(1) + 0.1], 1)


def test_iou_equals_torchvision() -> None:
    a, b = random_boxes(50, 0), random_boxes(30, 1)
    torch.testing.assert_close(box_ops.iou(a, b), torchvision.ops.box_iou(a, b))


def test_iou_of_batches_is_that_of_each() -> None:
    a, b = random_boxes(12, 0).view(2, 6, 4), random_boxes(10, 1).view(2, 5, 4)
    expected = torch.stack([torchvision.ops.box_iou(x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(box_ops.iou(a, b), expected)


def test_iou_of_nothing_is_zero() -> None:
    empty = torch.zeros(1, 4)
    assert box_ops.iou(empty, empty).item() == 0.0


def test_clip_uses_each_images_own_size() -> None:
    boxes = torch.tensor([[[-5.0, -5, 500, 500]], [[10.0, 20, 500, 500]]])
    sizes = torch.tensor([[100.0, 200.0], [300.0, 50.0]])
    expected = torch.tensor([[[0.0, 0, 200, 100]], [[10.0, 20, 50, 300]]])
    torch.testing.assert_close(box_ops.clip(boxes, sizes), expected)


def test_encode_by_hand() -> None:
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 10, 25, 20]])
    expected = torch.tensor([[10 * 1.0, 10 * 0.25, 5 * math.log(2), 5 * math.log(0.5)]])
    torch.testing.assert_close(box_ops.encode(box, anchor, (10, 10, 5, 5)), expected)


def test_encode_and_decode_equal_torchvision() -> None:
    from torchvision.models.detection._utils import BoxCoder

    boxes, anchors = random_boxes(40, 2), random_boxes(40, 3)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = box_ops.encode(boxes, anchors, (10, 10, 5, 5))
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors), atol=1e-4, rtol=1e-5)
    huge = deltas * 3
    torch.testing.assert_close(
        box_ops.decode(huge, anchors, (10, 10, 5, 5)),
        coder.decode_single(huge, anchors),
        atol=1e-2,
        rtol=1e-5,
    )


coordinate = st.floats(-500, 500, width=32)
side = st.floats(1, 300, width=32)  # dw is capped at log(62.5), so keep ratios below it
box = st.tuples(coordinate, coordinate, st.floats(20, 300, width=32), st.floats(20, 300, width=32))


@settings(max_examples=200, deadline=None)
@given(box, box)
def test_decode_undoes_encode(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    boxes, anchors = (
        torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64) for x, y, w, h in (first, second)
    )
    torch.testing.assert_close(
        box_ops.decode(box_ops.encode(boxes, anchors), anchors), boxes, atol=1e-6, rtol=1e-6
    )
