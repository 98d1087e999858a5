"""The CUDA kernels against the reference in float64, at sizes that cross their blocks, tiles and tables.

On a machine with a GPU they run there; MASKRCNN_TEST_DEVICE=cuda insists on it. MASKRCNN_TEST_DEVICE=cpu asks for the
device that test_cuda_on_cpu.py plays.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from maskrcnn_ops import (
    PRESETS,
    RoIOp,
    batched_nms,
    kernels,
    reference,
    roi_align,
    roi_pool,
    roi_warp,
)
from maskrcnn_ops import nms as reference_nms
from torch import Tensor

from tests.ops.test_operators import NAMES, SWITCHES, channels_for

DEVICE = os.environ.get("MASKRCNN_TEST_DEVICE", "cuda")
ABSENT = DEVICE == "cuda" and not (torch.cuda.is_available() and kernels.CUDA.compiled)
if ABSENT and "MASKRCNN_TEST_DEVICE" in os.environ:
    devices = f"{torch.cuda.device_count()} CUDA devices"
    raise RuntimeError(f"MASKRCNN_TEST_DEVICE=cuda: {devices}, {kernels.CUDA.reason}")
pytestmark = pytest.mark.skipif(
    ABSENT,
    reason="needs a GPU and CUDA kernels that were compiled on installation (test_cuda_on_cpu.py needs neither)",
)
on_a_gpu = pytest.mark.skipif(
    DEVICE != "cuda", reason="needs a GPU: the emulation on a CPU has one device and one stream"
)
SHAPE = [2, 0, 18, 27, 9, 13]  # images, channels (set by the test), sides of two levels
OPS = torch.ops.maskrcnn_ops
# The sums of a backward pass over 300 regions; one rounding to half precision at the end.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
# Numbers of channels that make vectors of 16 bytes, more of them than a warp has lanes, and such that do not.
CASES = [
    (torch.float32, 20, True),
    (torch.float32, 3, True),
    (torch.float32, 6, False),
    (torch.float64, 132, True),
    (torch.bfloat16, 16, True),
    (torch.float16, 24, True),
]


def layout_of(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def maps_of(dtype: torch.dtype, channels: int, channels_last: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = zip(SHAPE[2::2], SHAPE[3::2], strict=True)
    maps = [torch.randn(2, channels, *side, generator=generator).to(dtype) for side in sides]
    return [m.contiguous(memory_format=layout_of(channels_last)) for m in maps]


def regions(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes in, across and off a map of 72 x 108 pixels, of two images, with some that are none."""
    generator = torch.Generator().manual_seed(count)
    side = torch.exp(torch.rand(count, 2, generator=generator) * 4.5)
    corner = torch.rand(count, 2, generator=generator) * 140 - 30
    boxes = torch.cat([corner, corner + side], 1)
    boxes[::31] = float("nan")
    boxes[5] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    image = torch.randint(-1, 2, (count,), generator=generator)
    return boxes.to(torch.float64 if dtype == torch.float64 else torch.float32), image


def to_device(values: Any) -> Any:
    return [v.to(DEVICE) for v in values] if isinstance(values, list) else values.to(DEVICE)


def numbers_of(op: RoIOp) -> tuple[list[float], list[float]]:
    """Scales and switches; boxes of more than 30 pixels go to the coarser level."""
    return [1 / 4, 1 / 8], replace(op, canonical_size=60).packed()


def assert_like(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, float(expected.abs().max()))
    difference = (found.to("cpu", torch.float64) - expected.double()).abs().max()
    assert float(difference) <= TOLERANCE[dtype] * scale


OPERATORS = [RoIOp.preset(name) for name in NAMES] + [
    RoIOp(**{**vars(PRESETS["align"]), **switches}) for switches in SWITCHES
]


EVERY_OPERATOR = [(op, 60, *CASES[0]) for op in OPERATORS]
EVERY_TYPE = [
    (RoIOp.preset(name), 60, *case)
    for name in ("align", "pool", "warp_mnc", "ps_align")
    for case in CASES[1:]
]
MANY_REGIONS = [(RoIOp.preset(name), 300, *CASES[0]) for name in ("align", "pool")]


@pytest.mark.parametrize(
    ("op", "count", "dtype", "channels", "channels_last"), EVERY_OPERATOR + EVERY_TYPE + MANY_REGIONS
)
def test_forward_and_both_backwards_equal_the_reference(
    op: RoIOp, count: int, dtype: torch.dtype, channels: int, channels_last: bool
) -> None:
    """The reference has the same values in a wider type; coordinates are float32's in both but for float64."""
    inputs = channels_for(op, min(channels, 5), 20) if op.position_sensitive else channels
    maps = maps_of(dtype, inputs, channels_last)
    boxes, image = regions(count, dtype)
    wide = [m.double() if dtype == torch.float64 else m.float() for m in maps]
    numbers = numbers_of(op)
    given = to_device(maps), to_device(boxes), to_device(image)
    winner = their_winner = None
    if op.reduction == "max":
        found, winner = OPS.roi_maximum(*given, 5, 4, *numbers)
        expected, their_winner = reference.roi_maximum(wide, boxes, image, 5, 4, *numbers)
        assert (winner.cpu() != their_winner).float().mean() < 1e-3  # ties and roundings aside
        winner = to_device(their_winner)
        frozen = OPS.roi_sample(*given, winner, 5, 4, *numbers)
        assert_like(frozen, expected, dtype)
    else:
        found = OPS.roi_sample(*given, None, 5, 4, *numbers)
        expected = reference.roi_sample(wide, boxes, image, None, 5, 4, *numbers)
    assert found.is_contiguous(memory_format=layout_of(channels_last))
    assert_like(found, expected, dtype)

    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    shape = [2, inputs, *SHAPE[2:]]
    theirs = reference.roi_spread(
        grad.to(wide[0].dtype), boxes, image, their_winner, shape, *numbers, channels_last, False
    )
    assert all(t.abs().sum() > 0 for t in theirs)
    for atomic in (False, True):
        arguments = (to_device(grad), *given[1:], winner, shape, *numbers, channels_last, atomic)
        spread = OPS.roi_spread(*arguments)
        for ours, their in zip(spread, theirs, strict=True):
            assert ours.is_contiguous(memory_format=layout_of(channels_last))
            assert_like(ours, their, dtype)
        if not atomic:  # the same bits each time
            again = OPS.roi_spread(*arguments)
            assert all(torch.equal(a, b) for a, b in zip(spread, again, strict=True))


@pytest.mark.parametrize("output", [(1, 1), (14, 14), (56, 3), (128, 128)])
def test_other_output_sizes(output: tuple[int, int]) -> None:
    """A 128 x 128 region's shares of a tile fill most of a block's memory: few regions at once."""
    maps = maps_of(torch.float64, 2, True)
    boxes, image = regions(12, torch.float64)
    numbers = numbers_of(RoIOp.preset("align"))
    given = to_device(maps), to_device(boxes), to_device(image)
    found = OPS.roi_sample(*given, None, *output, *numbers)
    assert_like(found, reference.roi_sample(maps, boxes, image, None, *output, *numbers), torch.float64)
    grad = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shape = [2, 2, *SHAPE[2:]]
    theirs = reference.roi_spread(grad, boxes, image, None, shape, *numbers, True, False)
    ours = OPS.roi_spread(to_device(grad), *given[1:], None, shape, *numbers, True, False)
    for a, b in zip(ours, theirs, strict=True):
        assert_like(a, b, torch.float64)


def test_an_output_too_large_is_refused() -> None:
    maps, (boxes, image) = maps_of(torch.float32, 2, True), regions(6, torch.float32)
    with pytest.raises(RuntimeError, match="height \\+ width is at most 256, found 200 x 200"):
        OPS.roi_sample(
            to_device(maps),
            to_device(boxes),
            to_device(image),
            None,
            200,
            200,
            *numbers_of(RoIOp.preset("align")),
        )


def test_no_regions_give_no_output_and_no_gradient() -> None:
    maps = to_device(maps_of(torch.float32, 4, True))
    boxes, image = to_device(torch.zeros(0, 4)), to_device(torch.zeros(0, dtype=torch.int64))
    numbers = numbers_of(RoIOp.preset("align"))
    out = OPS.roi_sample(maps, boxes, image, None, 7, 7, *numbers)
    assert out.shape == (0, 4, 7, 7)
    spread = OPS.roi_spread(out, boxes, image, None, [2, 4, *SHAPE[2:]], *numbers, True, False)
    assert all(not s.any() for s in spread)


@pytest.mark.parametrize(("images", "channels", "count"), [(0, 4, 0), (2, 0, 3), (2, 4, 0)])
@pytest.mark.parametrize("name", ["align", "pool"])
def test_nothing_of_a_dimension(name: str, images: int, channels: int, count: int) -> None:
    maps = [
        torch.zeros(images, channels, *side, device=DEVICE, requires_grad=True)
        for side in ((18, 27), (9, 13))
    ]
    boxes = torch.tensor([0.0, 0, 30, 30], device=DEVICE).expand(images, 3, 4)[:, : count or 0]
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=DEVICE)
    pooled = RoIOp.preset(name)({4: maps[0], 8: maps[1]}, boxes, valid, 5)
    assert pooled.shape == (images * boxes.shape[1], channels, 5, 5)
    gradients = torch.autograd.grad(pooled.sum(), maps)
    assert all(g.shape == m.shape and not g.any() for g, m in zip(gradients, maps, strict=True))


def shifted(tensor: Tensor) -> Tensor:
    """The same, channels-last, one element beyond where memory begins: no address is a multiple of 16 bytes."""
    flat = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=DEVICE)[1:]
    n, c, h, w = tensor.shape
    view = flat.view(n, h, w, c).permute(0, 3, 1, 2)
    assert view.data_ptr() % 16
    return view.copy_(tensor)


@pytest.mark.parametrize("name", ["align", "pool"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_addresses_that_are_no_multiples_of_vectors(name: str, dtype: torch.dtype) -> None:
    maps, (boxes, image) = to_device(maps_of(dtype, 16, True)), to_device(list(regions(60, dtype)))
    op, shape = RoIOp.preset(name), [2, 16, *SHAPE[2:]]
    numbers, moved, winners = numbers_of(op), [shifted(m) for m in maps], (None, None)
    if op.reduction == "max":
        out, winner = OPS.roi_maximum(maps, boxes, image, 5, 4, *numbers)
        again, _ = OPS.roi_maximum(moved, boxes, image, 5, 4, *numbers)
        winners = (winner, shifted(winner))
    else:
        out = OPS.roi_sample(maps, boxes, image, None, 5, 4, *numbers)
        again = OPS.roi_sample(moved, boxes, image, None, 5, 4, *numbers)
    assert torch.equal(out, again)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    grad = grad.contiguous(memory_format=torch.channels_last)
    expected = OPS.roi_spread(grad, boxes, image, winners[0], shape, *numbers, True, False)
    for other, winner in ((shifted(grad), winners[0]), (grad, winners[1])):
        found = OPS.roi_spread(other, boxes, image, winner, shape, *numbers, True, False)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("function", [roi_align, roi_pool, roi_warp])
@pytest.mark.parametrize("channels_last", [True, False])
def test_gradients_of_any_strides_through_the_public_functions(function: Any, channels_last: bool) -> None:
    (feature, _), (boxes, image) = maps_of(torch.float32, 8, channels_last), regions(20, torch.float32)
    usable = boxes.isfinite().all(1) & (image >= 0)
    rows = torch.cat([image[usable, None], boxes[usable]], 1).to(DEVICE)
    feature = feature.to(DEVICE).requires_grad_()
    pooled = function(feature, rows, 5, 1 / 4)
    values = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    strided = values.new_empty(*values.shape, 2)[..., 0].copy_(values)
    one, two, three = (
        torch.autograd.grad(pooled, feature, g, retain_graph=True)[0]
        for g in (values, strided, values.contiguous(memory_format=torch.channels_last))
    )
    assert torch.equal(one, two)
    assert torch.equal(one, three)
    ones = torch.autograd.grad(pooled, feature, torch.ones_like(pooled), retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(pooled.sum(), feature)[0], ones)  # of stride 0


@pytest.mark.parametrize("function", [roi_align, roi_pool, roi_warp])
def test_first_and_second_gradients_of_the_public_functions(function: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(1, 2, 6, 7, dtype=torch.float64, generator=generator).to(DEVICE).requires_grad_()
    rows = torch.tensor([[0.0, 3, 2, 40, 30], [0, 10, 8, 50, 44]], dtype=torch.float64, device=DEVICE)

    def pooled(x: Tensor) -> Tensor:
        return function(x, rows, 2, 1 / 8)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(pooled, feature, fast_mode=True)
    assert torch.autograd.gradgradcheck(pooled, feature, fast_mode=True)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300, 9000])
def test_suppression_over_images_and_groups(count: int) -> None:
    """A fifth of the boxes do not count, some have no coordinates; of many, whole rounds at the end are such."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(2, count, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + torch.rand(2, count, 2, generator=generator) * 60], -1)
    boxes[:, 2::17, 1] = float("nan")
    order = torch.rand(2, count, generator=generator).argsort(1, descending=True)
    groups = torch.randint(0, 3, (2, count), generator=generator)
    valid = torch.rand(2, count, generator=generator) > 0.1
    valid.scatter_(1, order[:, count - count // 10 :], False)
    for threshold in (0.3, 0.7):
        arguments = (boxes, order, groups, valid)
        found = OPS.nms(*[a.to(DEVICE) for a in arguments], threshold)
        assert torch.equal(found.cpu(), reference_nms.nms(*arguments, threshold))


@on_a_gpu
def test_arguments_on_several_devices_are_refused() -> None:
    """A kernel that got a host's address would end the process's use of the GPU."""
    maps, (boxes, image) = maps_of(torch.float32, 4, True), regions(6, torch.float32)
    numbers, given = numbers_of(RoIOp.preset("pool")), to_device(maps)
    out, winner = OPS.roi_maximum(given, boxes.cuda(), image.cuda(), 5, 4, *numbers)
    spread = ([2, 4, *SHAPE[2:]], *numbers, True, False)
    order, groups = torch.arange(6)[None], torch.zeros(1, 6, dtype=torch.int64)
    valid, many = torch.ones(1, 6, dtype=torch.bool), boxes[None].contiguous()
    for call, words in (
        (lambda: OPS.roi_maximum(given, boxes, image.cuda(), 5, 4, *numbers), "the device of the features"),
        (lambda: OPS.roi_maximum(given, boxes.cuda(), image, 5, 4, *numbers), "the device of the boxes"),
        (
            lambda: OPS.roi_maximum([given[0], maps[1]], boxes.cuda(), image.cuda(), 5, 4, *numbers),
            "one device",
        ),
        (lambda: OPS.roi_sample(given, boxes.cuda(), image.cuda(), winner.cpu(), 5, 4, *numbers), "winner"),
        (lambda: OPS.roi_spread(out, boxes, image.cuda(), winner, *spread), "the device of the features"),
        (lambda: OPS.nms(many.cuda(), order.cuda(), groups, valid.cuda(), 0.5), "the device of the boxes"),
        (lambda: OPS.nms(many, order.cuda(), groups.cuda(), valid.cuda(), 0.5), "the device of the boxes"),
    ):
        with pytest.raises(RuntimeError, match=words):
            call()
    with pytest.raises(ValueError, match="groups: expected on cuda"):
        batched_nms(many.cuda(), torch.rand(1, 6).cuda(), groups, 0.5)


@on_a_gpu
def test_in_a_captured_graph_on_a_stream_of_its_own() -> None:
    """Nothing waits for the host or uses the default stream: a replay reads what its inputs hold then."""
    feature = torch.randn(2, 16, 18, 27, device=DEVICE).contiguous(memory_format=torch.channels_last)
    boxes, image = to_device(list(regions(40, torch.float32)))
    shape, scores = list(feature.shape), torch.rand(1, 40, device=DEVICE)
    groups = torch.zeros(1, 40, dtype=torch.int64, device=DEVICE)
    align, pool = ([1 / 4], RoIOp.preset("align").packed()), ([1 / 4], RoIOp.preset("pool").packed())

    def work() -> list[Tensor]:
        mean = OPS.roi_sample([feature], boxes, image, None, 5, 4, *align)
        best, winner = OPS.roi_maximum([feature], boxes, image, 5, 4, *pool)
        by_mean = OPS.roi_spread(mean, boxes, image, None, shape, *align, True, False)
        by_best = OPS.roi_spread(best, boxes, image, winner, shape, *pool, True, False)
        return [mean, best, *by_mean, *by_best, batched_nms(boxes[None], scores, groups, 0.5)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()
    feature.normal_()
    scores.uniform_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(found, work(), strict=True))
