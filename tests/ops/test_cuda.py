"""The CUDA kernels against the reference in float64, at sizes that cross their blocks, tiles and tables.

On a machine with a GPU they run there. MASKRCNN_TEST_DEVICE=cpu asks for the device that test_cuda_on_cpu.py plays.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from maskrcnn_ops import PRESETS, RoIOp, kernels, reference
from torch import Tensor

from tests.ops.test_operators import NAMES, SWITCHES

DEVICE = os.environ.get("MASKRCNN_TEST_DEVICE", "cuda")
COMPILED = kernels.CUDA if DEVICE == "cuda" else kernels.CPU
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not (torch.cuda.is_available() and COMPILED.compiled),
    reason="needs a GPU and CUDA kernels that were compiled on installation (test_cuda_on_cpu.py needs neither)",
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
EVERY_TYPE = [(RoIOp.preset(name), 60, *case) for name in ("align", "pool", "warp_mnc") for case in CASES[1:]]
MANY_REGIONS = [(RoIOp.preset(name), 300, *CASES[0]) for name in ("align", "pool")]


@pytest.mark.parametrize(
    ("op", "count", "dtype", "channels", "channels_last"), EVERY_OPERATOR + EVERY_TYPE + MANY_REGIONS
)
def test_forward_and_both_backwards_equal_the_reference(
    op: RoIOp, count: int, dtype: torch.dtype, channels: int, channels_last: bool
) -> None:
    """The reference has the same values in a wider type; coordinates are float32's in both but for float64."""
    maps = maps_of(dtype, channels, channels_last)
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
    shape = [2, channels, *SHAPE[2:]]
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


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_suppression_over_images_and_groups(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(2, count, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + torch.rand(2, count, 2, generator=generator) * 60], -1)
    order = torch.rand(2, count, generator=generator).argsort(1, descending=True)
    groups = torch.randint(0, 3, (2, count), generator=generator)
    valid = torch.rand(2, count, generator=generator) > 0.1
    for threshold in (0.3, 0.7):
        arguments = (boxes, order, groups, valid)
        found = OPS.nms(*[a.to(DEVICE) for a in arguments], threshold)
        assert torch.equal(found.cpu(), reference.nms(*arguments, threshold))
