"""What a caller of torchvision.ops finds here: names, defaults, forms of the boxes, modules, views, compilation."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import maskrcnn_ops
import numpy as np
import pytest
import torch
import torchvision
from maskrcnn_ops import (
    PRESETS,
    PSRoIAlign,
    PSRoIPool,
    PSRoIWarp,
    RoIOp,
    RoIWarp,
    Switches,
    batched_nms,
    ps_roi_align,
    ps_roi_pool,
    ps_roi_warp,
    roi_align,
    roi_pool,
    roi_warp,
)

from tests.ops.test_operators import features_for, loop_pool, some_boxes


def rows_of(count: int, seed: int) -> torch.Tensor:
    return torch.cat([torch.zeros(count, 1), some_boxes(count, seed)], 1)


@pytest.mark.parametrize(
    "name",
    [
        "roi_align",
        "roi_pool",
        "RoIAlign",
        "RoIPool",
        "ps_roi_align",
        "ps_roi_pool",
        "PSRoIAlign",
        "PSRoIPool",
    ],
)
def test_arguments_have_torchvisions_names_order_and_defaults(name: str) -> None:
    theirs = inspect.signature(getattr(torchvision.ops, name)).parameters
    ours = dict(inspect.signature(getattr(maskrcnn_ops, name)).parameters)
    shared = list(ours.items())[: len(theirs)]
    assert [(key, p.default) for key, p in shared] == [(key, p.default) for key, p in theirs.items()]
    further = list(ours.values())[len(theirs) :]
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in further)


@pytest.mark.parametrize(
    "name",
    ["roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"],
)
def test_boxes_as_a_list_of_one_tensor_for_each_image(name: str) -> None:
    ours, theirs = getattr(maskrcnn_ops, name), getattr(torchvision.ops, name)
    feature = torch.randn(3, 18, 8, 12, generator=torch.Generator().manual_seed(0))
    boxes = [some_boxes(4, 1), torch.zeros(0, 4), some_boxes(2, 2)]
    torch.testing.assert_close(ours(feature, boxes, 3, 1 / 8), theirs(feature, boxes, 3, 1 / 8))
    if not name.startswith("ps_"):  # torchvision's take one number
        torch.testing.assert_close(ours(feature, boxes, (2, 4), 1 / 8), theirs(feature, boxes, (2, 4), 1 / 8))


def test_modules_are_their_functions() -> None:
    feature, rows = features_for(3, 18), rows_of(5, 4)
    rfcn: Any = {"preset": "ps_pool_rfcn"}
    for module, function in (
        (PSRoIAlign(3, 1 / 8, 2), lambda: ps_roi_align(feature, rows, 3, 1 / 8, 2)),
        (PSRoIPool(3, 1 / 8), lambda: ps_roi_pool(feature, rows, 3, 1 / 8)),
        (PSRoIPool(3, 1 / 8, **rfcn), lambda: ps_roi_pool(feature, rows, 3, 1 / 8, **rfcn)),
        (PSRoIWarp(3, 1 / 8, 2), lambda: ps_roi_warp(feature, rows, 3, 1 / 8, 2)),
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
        for function in (roi_align, roi_pool, roi_warp, partial(ps_roi_align, output_size=1)):
            arguments = (rows, 3, 1 / 8) if not isinstance(function, partial) else (rows,)
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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float64, torch.bfloat16)),
    ],
)
@pytest.mark.parametrize("sensitive", [False, True])
def test_opcheck_of_every_roi_operator_over_two_levels(
    sensitive: bool, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    generator, ops = torch.Generator().manual_seed(0), torch.ops.maskrcnn_ops
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # Of sqrt(area) below and above the canonical size, one region that does not count.
    boxes = torch.tensor([[9.0, 3, 30, 25], [5, 5, 90, 70], [0, 0, 9, 9]], dtype=wide)
    image, numbers = (
        torch.tensor([1, 0, -1]),
        ([1 / 8, 1 / 16], Switches(canonical_size=56, position_sensitive=sensitive).packed()),
    )
    inputs = 12 if sensitive else 3

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout)

    maps = [random(2, inputs, 8, 12).requires_grad_(), random(2, inputs, 4, 6).requires_grad_()]
    grad, shape = random(3, 3, 2, 2), [2, inputs, 8, 12, 4, 6]
    moved, winners = boxes.clone().requires_grad_(), [None]
    if not sensitive:
        winners.append(ops.roi_maximum(maps, boxes, image, 2, 2, *numbers)[1])
        torch.library.opcheck(ops.roi_maximum, (maps, moved, image, 2, 2, *numbers))
    for which in winners:
        torch.library.opcheck(ops.roi_sample, (maps, moved, image, which, 2, 2, *numbers))
        last = layout == torch.channels_last
        spread = (grad.requires_grad_(), boxes, image, which, shape, *numbers, last, False)
        torch.library.opcheck(ops.roi_spread, spread)
        detached = [grad.detach(), [m.detach() for m in maps]]
        torch.library.opcheck(ops.roi_box_gradient, (*detached, boxes, image, which, *numbers))


def test_opcheck_of_non_maximum_suppression() -> None:
    order, groups = torch.arange(3)[None], torch.zeros(1, 3, dtype=torch.int64)
    arguments = (some_boxes(3, 1)[None], order, groups, torch.ones(1, 3, dtype=torch.bool), 0.5)
    torch.library.opcheck(torch.ops.maskrcnn_ops.nms, arguments)


@pytest.mark.parametrize(
    "function",
    [
        roi_align,
        partial(roi_align, reduction="max", box_rounding="round"),
        ps_roi_pool,
        *(
            pytest.param(function, marks=pytest.mark.slow)
            for function in (
                roi_pool,
                roi_warp,
                partial(roi_warp, preset="warp_mnc"),
                ps_roi_align,
                partial(ps_roi_pool, preset="ps_pool_rfcn"),
                ps_roi_warp,
            )
        ),
    ],
)
def test_compiled_whole_with_its_gradient_for_any_number_of_boxes(function: Any) -> None:
    def loss(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return function(x, rows, 2, 1 / 8).square().sum()  # type: ignore[no-any-return]

    torch.compiler.reset()  # the operators share this function, and its limit of recompilations
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (3, 5):
        one, two = (features_for(11, 12).requires_grad_() for _ in range(2))
        rows = rows_of(count, count)
        loss(one, rows).backward()
        compiled(two, rows).backward()
        torch.testing.assert_close(two.grad, one.grad)


def test_nms_is_compiled_whole() -> None:
    boxes, scores = some_boxes(20, 12)[None], torch.rand(1, 20, generator=torch.Generator().manual_seed(2))
    groups = torch.zeros(1, 20, dtype=torch.int64)
    compiled = torch.compile(batched_nms, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(boxes, scores, groups, 0.3), batched_nms(boxes, scores, groups, 0.3))


MODULES = [
    maskrcnn_ops.RoIAlign(2, 1 / 8, 2, True),
    maskrcnn_ops.RoIAlign((2, 3), 1 / 8, -1, reduction="max"),
    maskrcnn_ops.RoIPool(2, 1 / 8),
    RoIWarp(2, 1 / 8),
    RoIWarp(2, 1 / 8, preset="warp_mnc", box_gradient=True),
    PSRoIAlign(2, 1 / 8, 2),
    PSRoIPool((2, 3), 1 / 8),
    PSRoIWarp(2, 1 / 8, -1, box_gradient=True),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_exported_for_the_same_and_for_any_number_of_boxes(module: torch.nn.Module) -> None:
    feature, any_number = features_for(11, 12), {"input": None, "rois": {0: torch.export.Dim("K")}}
    for shapes, counts in ((None, (3,)), (any_number, (0, 1, 3, 8))):
        program = torch.export.export(module, (feature, rows_of(3, 1)), dynamic_shapes=shapes)
        called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert sum(name.startswith("maskrcnn_ops.roi_") for name in called) == 1
        for count in counts:
            rows = rows_of(count, 2)
            torch.testing.assert_close(program.module()(feature, rows), module(feature, rows))


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_a_leaf_of_what_torch_fx_traces(module: torch.nn.Module) -> None:
    traced = torch.fx.symbolic_trace(torch.nn.ModuleDict({"pool": module})["pool"])
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert maskrcnn_ops.functional.pool_single_level in called
    feature = features_for(12, 12)
    for boxes in (rows_of(4, 3), rows_of(6, 4), [some_boxes(3, 5)]):
        assert torch.equal(traced(feature, boxes), module(feature, boxes))


def test_the_functions_in_a_module_that_torch_fx_traces() -> None:
    class Both(torch.nn.Module):
        def forward(self, feature: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            warped = roi_warp(feature, rows, 2, 1 / 8)
            return roi_align(feature, rows, 2, 1 / 8) + roi_pool(feature, rows, 2, 1 / 8) * warped

    feature, rows = features_for(12), rows_of(4, 3)
    assert torch.equal(torch.fx.symbolic_trace(Both())(feature, rows), Both()(feature, rows))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [roi_align, roi_pool, roi_warp])
def test_boxes_of_a_list_are_of_their_image_in_any_precision(function: Any, dtype: torch.dtype) -> None:
    """bfloat16 has no 257, float16 no 2049."""
    number = torch.arange(2060.0)
    box = torch.tensor([[0, 0, 3, 3]], dtype=dtype)
    found = function(number.view(-1, 1, 1, 1).expand(-1, 1, 4, 4), [box] * len(number), 1)
    torch.testing.assert_close(found.flatten(), number)


def test_numbers_of_any_type_that_torchvision_takes() -> None:
    feature, rows = features_for(3), rows_of(5, 4)
    arguments = (np.int64(3), np.float32(1 / 8), np.int64(2), 1)
    expected = torchvision.ops.roi_align(feature, rows, *arguments)
    torch.testing.assert_close(roi_align(feature, rows, *arguments), expected)
    torch.testing.assert_close(maskrcnn_ops.RoIAlign(*arguments)(feature, rows), expected)
    for size in (np.int32(3), [np.int64(3)], (3, np.uint8(3)), torch.Size([3, 3])):
        torch.testing.assert_close(roi_align(feature, rows, size, 1 / 8, 2, np.True_), expected)
    expected = torchvision.ops.roi_pool(feature, rows, np.int64(3), 1 / 8)
    torch.testing.assert_close(roi_pool(feature, rows, np.int64(3), 1 / 8), expected)
    operator = RoIOp(sampling_ratio=np.int64(2))  # type: ignore[arg-type]
    assert type(operator.sampling_ratio) is int
    assert operator == RoIOp(sampling_ratio=2)


ONE_BOX = (torch.tensor([[[4.0, 4, 40, 40]]]), torch.ones(1, 1, dtype=torch.bool))
MAP = torch.zeros(1, 2, 8, 8)


def aligned(*arguments: Any, **switches: Any) -> Any:
    return roi_align(MAP, rows_of(2, 1), *arguments, **switches)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: aligned(7.0), "output_size: expected integers, found 7.0"),
        (lambda: aligned("7"), "output_size: expected integers, found '7'"),
        (lambda: aligned((7, 0)), r"output_size: expected at least 1, found \(7, 0\)"),
        (lambda: aligned((7, 7, 7)), "output_size: expected one or two integers"),
        (lambda: aligned(7, "a"), "spatial_scale: expected a positive number, found 'a'"),
        (lambda: aligned(7, None), "spatial_scale: expected a positive number, found None"),
        (lambda: aligned(7, math.inf), "spatial_scale: expected a positive, finite number, found inf"),
        (lambda: aligned(7, math.nan), "spatial_scale: expected a positive, finite number, found nan"),
        (lambda: aligned(7, 0), "spatial_scale: expected a positive, finite number, found 0"),
        (lambda: aligned(7, 0.5, 2.0), "sampling_ratio: expected an integer, found 2.0"),
        (lambda: aligned(7, 0.5, 2**31), "sampling_ratio: expected at most 1024 samples"),
        (lambda: aligned(7, 0.5, 2, 2), "aligned: expected true or false, found 2"),
        (lambda: aligned(7, 0.5, 2, "no"), "aligned: expected true or false, found 'no'"),
        (lambda: RoIOp(offset="measured"), "offset: expected a number, found 'measured'"),  # type: ignore[arg-type]
        (lambda: RoIOp(offset=math.nan), "offset: expected a finite number, found nan"),
        (lambda: RoIOp(offset=0.3, half_pixel=True), "found offset 0.3 as well; give one of the two"),
        (lambda: RoIOp(position_sensitive=True, reduction="max"), "position_sensitive only supports 'avg'"),
        (lambda: RoIOp(min_width=0.5), "min_width: expected null, 0, 0.1 or 1, found 0.5"),
        (lambda: ps_roi_align(MAP, rows_of(2, 1), 7), r"a multiple of P \* P = 49 channels, found 2"),
        (lambda: ps_roi_pool(MAP, rows_of(2, 1), 1, preset="pool"), "preset: expected 'ps_pool' or"),  # type: ignore[arg-type]
        (lambda: RoIOp(sampling_ratio=2**31), "sampling_ratio: expected at most 1024 samples"),
        (lambda: RoIOp()({"4": MAP}, *ONE_BOX, 7), "features: a stride as key: .* found '4'"),  # type: ignore[dict-item]
        (lambda: RoIOp()({0: MAP}, *ONE_BOX, 7), "features: a stride as key: .* found 0"),
        (lambda: RoIOp()([MAP], *ONE_BOX, 7), "features: expected a dict of maps by stride, found list"),  # type: ignore[arg-type]
        (lambda: RoIOp()({4: None}, *ONE_BOX, 7), "features: expected tensors, found NoneType"),  # type: ignore[dict-item]
        (lambda: RoIOp()(dict.fromkeys(range(1, 10), MAP), *ONE_BOX, 7), "at most 8 levels, found 9"),
        (lambda: RoIOp()({4: MAP}, [[[0, 0, 9, 9]]], ONE_BOX[1], 7), r"boxes: expected Tensor \[1, K, 4\]"),  # type: ignore[arg-type]
        (lambda: RoIOp()({4: MAP}, ONE_BOX[0], None, 7), r"valid: expected bool \[1, 1\], found NoneType"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_refused_in_words(call: Callable[[], object], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        call()


@pytest.mark.parametrize("samples", [1024, np.int64(-5), -(2**70)])
def test_numbers_of_samples_up_to_the_bound(samples: int) -> None:
    ramp = torch.arange(20.0).expand(1, 1, 20, 20).contiguous()
    found = roi_align(ramp, torch.tensor([[0.0, 16, 16, 48, 48]]), 1, 1 / 4, samples, True)
    assert found.item() == pytest.approx(7.5, abs=1e-3)  # the middle of cells 4 to 12


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (
            maskrcnn_ops.RoIAlign(7, 0.1, 2),
            "RoIAlign(output_size=7, spatial_scale=0.1, sampling_ratio=2, aligned=False)",
        ),
        (
            maskrcnn_ops.RoIAlign(7, 0.1, 2, True, box_gradient=True, reduction="max", border="align"),
            "RoIAlign(output_size=7, spatial_scale=0.1, sampling_ratio=2, aligned=True, reduction='max', "
            "box_gradient=True)",
        ),
        (maskrcnn_ops.RoIPool((7, 5), 0.1), "RoIPool(output_size=(7, 5), spatial_scale=0.1)"),
        (
            maskrcnn_ops.RoIPool(7, 0.1, reduction="avg", sampling_ratio=3),
            "RoIPool(output_size=7, spatial_scale=0.1, sampling_ratio=3, reduction='avg')",
        ),
        (PSRoIAlign(7, 0.1, 2), "PSRoIAlign(output_size=7, spatial_scale=0.1, sampling_ratio=2)"),
        (
            PSRoIPool(7, 0.1, border="align"),
            "PSRoIPool(output_size=7, spatial_scale=0.1, preset='ps_pool', border='align')",
        ),
        (RoIWarp(7, 0.1), "RoIWarp(output_size=7, spatial_scale=0.1, preset='warp')"),
        (
            RoIWarp(7, 0.1, 2, "max", plus_one=False),
            "RoIWarp(output_size=7, spatial_scale=0.1, preset='warp', plus_one=False, sampling_ratio=2, "
            "reduction='max')",
        ),
        (
            RoIWarp(7, 0.1, 2, "max", preset="warp_mnc"),
            "RoIWarp(output_size=7, spatial_scale=0.1, preset='warp_mnc')",
        ),
    ],
)
def test_repr_shows_what_differs_from_the_defaults(module: torch.nn.Module, expected: str) -> None:
    assert repr(module) == expected


def test_half_pixel_is_a_spelling_of_the_offset() -> None:
    assert RoIOp(half_pixel=True) == RoIOp(offset=0.5) == RoIOp()
    assert RoIOp(half_pixel=False) == RoIOp(offset=0) == replace(RoIOp(), half_pixel=False)
    assert replace(RoIOp(offset=0.3), plus_one=True).offset == 0.3
    feature, rows = features_for(3), rows_of(5, 4)
    expected = roi_align(feature, rows, 3, 1 / 8, 2, True)
    assert torch.equal(roi_align(feature, rows, 3, 1 / 8, 2, True, half_pixel=True), expected)
    assert torch.equal(roi_align(feature, rows, 3, 1 / 8, 2, min_width=None, half_pixel=True), expected)
    assert not torch.equal(roi_align(feature, rows, 3, 1 / 8, 2, True, offset=0.3), expected)


def test_an_offset_moves_the_boxes_by_so_many_cells() -> None:
    feature, rows = features_for(3).double(), rows_of(8, 4).double()
    moved = rows - torch.tensor([0, 2.4, 2.4, 2.4, 2.4])  # 0.3 cells of 8 pixels
    found = roi_align(feature, rows, 3, 1 / 8, 2, True, offset=0.3)
    torch.testing.assert_close(found, roi_align(feature, moved, 3, 1 / 8, 2, True, offset=0))
