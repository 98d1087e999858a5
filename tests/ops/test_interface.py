"""What a caller of torchvision.ops finds here: names, defaults, forms of the boxes, modules, views, compilation."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import maskrcnn_ops
import numpy as np
import pytest
import torch
import torchvision
from maskrcnn_ops import PRESETS, RoIOp, RoIWarp, batched_nms, roi_align, roi_pool, roi_warp

from tests.ops.test_operators import features_for, loop_pool, some_boxes


def rows_of(count: int, seed: int) -> torch.Tensor:
    return torch.cat([torch.zeros(count, 1), some_boxes(count, seed)], 1)


@pytest.mark.parametrize("name", ["roi_align", "roi_pool", "RoIAlign", "RoIPool"])
def test_arguments_have_torchvisions_names_order_and_defaults(name: str) -> None:
    theirs = inspect.signature(getattr(torchvision.ops, name)).parameters
    ours = dict(inspect.signature(getattr(maskrcnn_ops, name)).parameters)
    shared = list(ours.items())[: len(theirs)]
    assert [(key, p.default) for key, p in shared] == [(key, p.default) for key, p in theirs.items()]
    further = list(ours.values())[len(theirs) :]
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in further)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(roi_align, torchvision.ops.roi_align), (roi_pool, torchvision.ops.roi_pool)]
)
def test_boxes_as_a_list_of_one_tensor_for_each_image(ours: Any, theirs: Any) -> None:
    feature = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    boxes = [some_boxes(4, 1), torch.zeros(0, 4), some_boxes(2, 2)]
    torch.testing.assert_close(ours(feature, boxes, 3, 1 / 8), theirs(feature, boxes, 3, 1 / 8))
    torch.testing.assert_close(ours(feature, boxes, (2, 4), 1 / 8), theirs(feature, boxes, (2, 4), 1 / 8))


def test_modules_are_their_functions() -> None:
    feature, rows = features_for(3), rows_of(5, 4)
    for module, function in (
        (maskrcnn_ops.RoIAlign(3, 1 / 8, 2, True), lambda: roi_align(feature, rows, 3, 1 / 8, 2, True)),
        (maskrcnn_ops.RoIPool(3, 1 / 8), lambda: roi_pool(feature, rows, 3, 1 / 8)),
        (RoIWarp(3, 1 / 8), lambda: roi_warp(feature, rows, 3, 1 / 8)),
        (RoIWarp(3, 1 / 8, preset="warp_mnc"), lambda: roi_warp(feature, rows, 3, 1 / 8, preset="warp_mnc")),
    ):
        assert torch.equal(module(feature, rows), function())


@pytest.mark.parametrize(
    ("arguments", "switches"),
    [
        ({}, {"sampling_ratio": -1}),
        ({"sampling_ratio": 2}, {"sampling_ratio": 2}),
        ({"sampling_ratio": 3, "reduction": "max"}, {"sampling_ratio": 3, "reduction": "max"}),
        ({"preset": "warp_mnc"}, {"preset": "warp_mnc"}),
        ({"preset": "warp_continuous"}, {"preset": "warp_continuous", "sampling_ratio": -1}),
        ({"sampling_ratio": 2, "plus_one": False}, {"sampling_ratio": 2, "plus_one": False}),
    ],
)
def test_roi_warp_equals_the_loop(arguments: dict[str, Any], switches: dict[str, Any]) -> None:
    feature, boxes = features_for(5), some_boxes(12, 6)
    preset = vars(PRESETS[switches.pop("preset", "warp")])
    op = RoIOp(**{**{key: preset[key] for key in vars(RoIOp())}, **switches})
    found = roi_warp(feature, torch.cat([torch.zeros(12, 1), boxes], 1), 3, 1 / 8, **arguments)
    expected = [
        [loop_pool(plane, b, 1 / 8, 3, op) for plane in feature[0].double().numpy()] for b in boxes.tolist()
    ]
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=2e-5)


def test_views_are_read_as_what_they_show() -> None:
    whole = torch.randn(2, 6, 16, 24, generator=torch.Generator().manual_seed(7))
    rows = rows_of(6, 8)
    for view in (whole[:, ::2, ::2, ::2], whole.transpose(2, 3), whole[1:, :, 3:11], whole.flip(3)):
        for function in (roi_align, roi_pool, roi_warp):
            arguments = (rows, 3, 1 / 8)
            assert torch.equal(function(view, *arguments), function(view.contiguous(), *arguments))


def test_empty_and_turned_boxes_are_torchvisions() -> None:
    boxes = torch.tensor([[20.0, 20, 20, 20], [40, 10, 12, 30], [10, 40, 30, 12], [50, 50, 10, 10]])
    rows, feature = torch.cat([torch.zeros(4, 1), boxes], 1), features_for(9)
    for aligned in (False, True):
        for ratio in (1, 2, 3):
            arguments = (rows, 3, 1 / 8, ratio, aligned)
            expected = torchvision.ops.roi_align(feature, *arguments)
            torch.testing.assert_close(roi_align(feature, *arguments), expected, atol=1e-5, rtol=1e-5)
    expected = torchvision.ops.roi_pool(feature, rows, 3, 1 / 8)
    torch.testing.assert_close(roi_pool(feature, rows, 3, 1 / 8), expected)


@pytest.mark.parametrize("name", ["align", "align_legacy", "pool", "warp"])
def test_a_huge_box_equals_the_loop(name: str) -> None:
    feature, box = features_for(10), [-4000.0, -900.0, 5000.0, 1300.0]
    op = RoIOp.preset(name)
    found = op({8: feature}, torch.tensor([[box]]), torch.ones(1, 1, dtype=torch.bool), 7)
    expected = [loop_pool(plane, box, 1 / 8, 7, op) for plane in feature[0].double().numpy()]
    np.testing.assert_allclose(found[0].numpy(), np.array(expected), atol=2e-5)


def test_the_articles_maximum_of_four_samples() -> None:
    """A region of 7x5 cells to 2x2 bins, four samples a bin, the largest wins; worked out on a ramp of x + 10 y."""
    ramp = (torch.arange(8.0) + 10 * torch.arange(8.0)[:, None]).expand(1, 1, 8, 8).contiguous()
    box = torch.tensor([[0.0, 0, 0, 7, 5]])
    found = roi_align(ramp, box, 2, 1.0, 2, True, reduction="max")[0, 0]
    # Bins of 3.5 x 2.5; their last samples lie at 3/4: x = 2.625, 6.125 and y = 1.875, 4.375, less half a cell.
    x, y = torch.tensor([2.625, 6.125]) - 0.5, torch.tensor([1.875, 4.375]) - 0.5
    torch.testing.assert_close(found, x + 10 * y[:, None])


def test_opcheck_of_every_operator() -> None:
    generator = torch.Generator().manual_seed(0)
    feature, boxes = torch.randn(1, 3, 8, 12, generator=generator), some_boxes(3, 1)
    image, grad = torch.zeros(3, dtype=torch.int64), torch.randn(3, 3, 2, 2, generator=generator)
    numbers, ops = ([1 / 8], PRESETS["align"].packed()), torch.ops.maskrcnn_ops
    spread = (grad, boxes, image, None, [1, 3, 8, 12], *numbers, False, False)
    torch.library.opcheck(ops.roi_spread, spread)
    torch.library.opcheck(ops.roi_box_gradient, (grad, [feature], boxes, image, None, *numbers))
    order, groups = torch.arange(3)[None], torch.zeros(1, 3, dtype=torch.int64)
    torch.library.opcheck(ops.nms, (boxes[None], order, groups, torch.ones(1, 3, dtype=torch.bool), 0.5))


@pytest.mark.parametrize(
    "function",
    [
        roi_align,
        roi_pool,
        roi_warp,
        partial(roi_align, reduction="max", box_rounding="round"),
        partial(roi_warp, preset="warp_mnc"),
    ],
)
def test_compiled_whole_with_its_gradient_for_any_number_of_boxes(function: Any) -> None:
    def loss(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return function(x, rows, 2, 1 / 8).square().sum()  # type: ignore[no-any-return]

    torch.compiler.reset()  # the operators share this function, and its limit of recompilations
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (3, 5):
        one, two = (features_for(11).requires_grad_() for _ in range(2))
        rows = rows_of(count, count)
        loss(one, rows).backward()
        compiled(two, rows).backward()
        torch.testing.assert_close(two.grad, one.grad)


def test_nms_is_compiled_whole() -> None:
    boxes, scores = some_boxes(20, 12)[None], torch.rand(1, 20, generator=torch.Generator().manual_seed(2))
    groups = torch.zeros(1, 20, dtype=torch.int64)
    compiled = torch.compile(batched_nms, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(boxes, scores, groups, 0.3), batched_nms(boxes, scores, groups, 0.3))
