"""The RoI operators against loops written from their definitions, and numerical derivatives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import maskrcnn_ops
import numpy as np
import pytest
import torch
import torchvision
from maskrcnn_ops import PRESETS, RoIOp, reference, roi_align, roi_pool
from torch import Tensor

NAMES = [
    "align",
    "align_legacy",
    "pool",
    "warp",
    "warp_mnc",
    "warp_continuous",
    "ps_align",
    "ps_pool",
    "ps_pool_rfcn",
    "ps_warp",
]


def round_away(x: float) -> float:
    """C's round: half away from zero."""
    return math.copysign(math.floor(abs(x) + 0.5), x)


def loop_axis(low: float, high: float, scale: float, bins: int, size: int, op: RoIOp) -> list[list[float]]:
    """Coordinates (cell centres at whole numbers) of the points of every bin along one axis; float32 throughout."""
    f = np.float32
    one = f(op.plus_one)
    if op.box_rounding == "pixel":
        low, high, one = round_away(low), round_away(high) + one, f(0)
    start, end = f(low) * f(scale), f(high) * f(scale)
    if op.box_rounding == "round":
        start, end = f(round_away(start)), f(round_away(end))
    start, end = start - f(op.offset), end - f(op.offset)
    width = end - start + one
    if op.min_width is not None:
        width = max(width, f(op.min_width))
    step = f(width / f(bins))
    whole = op.box_rounding == "round" and op.offset == 0  # the region starts at a whole cell
    points = []
    for p in range(bins):
        if op.bin_rounding:
            low, high = f(p) * step, f(p + 1) * step
            first = int(math.floor(low) + start) if whole else math.floor(start + low)
            last = int(math.ceil(high) + start) if whole else math.ceil(start + high)
            beyond = size - 1 if op.border == "inner" else size
            points.append([float(c) for c in range(max(first, 0), min(last, beyond))])
            continue
        n = op.sampling_ratio if op.sampling_ratio > 0 else max(math.ceil(step), 0)
        place = {
            "centre": lambda i, n: (i + 0.5) / n,
            "corner": lambda i, n: i / n,
            "thirds": lambda i, n: (i + 1) / (n + 1),
        }
        points.append(
            [float(start + f(p) * step + f(place[op.sample_position](i, n)) * step) for i in range(n)]
        )
    return points


def loop_value(plane: np.ndarray[Any, Any], y: float, x: float, border: str) -> float:
    """Bilinear interpolation with the family's border rule."""
    height, width = plane.shape
    margin, beyond = {"align": (1.0, 0.0), "mnc": (0.5, 0.5), "inner": (0.0, 1.0)}[border]
    if not (-margin <= y <= height - beyond and -margin <= x <= width - beyond):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = (1 - dx) * plane[y0, x0] + dx * plane[y0, x1]
    return float((1 - dy) * top + dy * ((1 - dx) * plane[y1, x0] + dx * plane[y1, x1]))


def loop_pool(
    plane: np.ndarray[Any, Any], box: list[float], scale: float, size: int, op: RoIOp
) -> np.ndarray[Any, Any]:
    """One region of one channel, ``[size, size]``, point by point."""
    rows = loop_axis(box[1], box[3], scale, size, plane.shape[0], op)
    columns = loop_axis(box[0], box[2], scale, size, plane.shape[1], op)
    out = np.zeros((size, size))
    for p, q in np.ndindex(size, size):
        values = [loop_value(plane, y, x, op.border) for y in rows[p] for x in columns[q]]
        if values:
            out[p, q] = max(values) if op.reduction == "max" else sum(values) / len(values)
    return out


def loop_region(
    feature: np.ndarray[Any, Any], box: list[float], scale: float, size: int, op: RoIOp
) -> np.ndarray[Any, Any]:
    """One region of one image ``[C, H, W]``, all channels of the output."""
    planes = np.array([loop_pool(plane, box, scale, size, op) for plane in feature])
    if not op.position_sensitive:
        return planes
    out = np.zeros((len(feature) // size**2, size, size))
    for c, i, j in np.ndindex(out.shape):
        out[c, i, j] = planes[(c * size + i) * size + j, i, j]
    return out


def some_boxes(count: int, seed: int) -> Tensor:
    """Boxes inside, across the edge of and outside a map of 64 x 96 pixels."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * 100 - 15
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def channels_for(op: RoIOp, channels: int, bins: int) -> int:
    """Channels of the features that make so many of an output of so many bins."""
    return channels * bins if op.position_sensitive else channels


def features_for(seed: int, channels: int = 3) -> Tensor:
    return torch.randn(1, channels, 8, 12, generator=torch.Generator().manual_seed(seed))


SWITCHES = [
    {"box_rounding": "round"},
    {"plus_one": True},
    {"half_pixel": False},
    {"offset": 0.37},
    {"offset": -1.25, "bin_rounding": True, "box_rounding": "round"},
    {"min_width": 1},
    {"min_width": 0},
    {"bin_rounding": True, "reduction": "max"},
    {"bin_rounding": True},
    {"sampling_ratio": 1},
    {"sampling_ratio": 3},
    {"sampling_ratio": -1},
    {"sample_position": "corner"},
    {"sample_position": "thirds"},
    {"border": "mnc"},
    {"border": "inner"},
    {"border": "inner", "bin_rounding": True},
    {"box_rounding": "pixel"},
    {"box_rounding": "pixel", "plus_one": True, "min_width": 0.1},
    {"reduction": "max"},
    {"position_sensitive": True, "sampling_ratio": -1},
    {"position_sensitive": True, "bin_rounding": True},
    {"position_sensitive": True, "sample_position": "thirds", "border": "mnc"},
]


@pytest.mark.parametrize(
    "op", [RoIOp.preset(n) for n in NAMES] + [replace(RoIOp.preset("align"), **s) for s in SWITCHES]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_preset_and_switch_equals_the_loop(op: RoIOp, channels_last: bool) -> None:
    feature, boxes = features_for(1, channels_for(op, 3, 9)), some_boxes(12, 2)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = op(
        {8: feature.contiguous(memory_format=layout)}, boxes[None], torch.ones(1, 12, dtype=torch.bool), 3
    )
    expected = [loop_region(feature[0].double().numpy(), box, 1 / 8, 3, op) for box in boxes.tolist()]
    np.testing.assert_allclose(out.numpy(), np.array(expected), atol=2e-5)


def as_reference(name: str, *arguments: Any) -> Any:
    return getattr(reference, name)(*arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_equals_reference_forward_and_backward(
    name: str, dtype: torch.dtype, channels_last: bool
) -> None:
    """Where nothing was compiled both are the reference, and the loops above are the oracle."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    channels = channels_for(RoIOp.preset(name), 13, 12) if name.startswith("ps_") else 70
    maps = [
        torch.randn(2, channels, s, s + 4, generator=generator).to(dtype).contiguous(memory_format=layout)
        for s in (16, 8)
    ]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    boxes = some_boxes(20, 3).to(wide) * torch.tensor([[1.0], [3.0]], dtype=wide).repeat(10, 1)  # both levels
    image = torch.tensor([0, 1, 0, -1] * 5)
    numbers = ([1 / 4, 1 / 8], PRESETS[name].packed())
    ops = torch.ops.maskrcnn_ops
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-5)
    winner = None
    if PRESETS[name].reduction == "max":
        found, winner = ops.roi_maximum(maps, boxes, image, 4, 3, *numbers)
        expected, their_winner = as_reference("roi_maximum", maps, boxes, image, 4, 3, *numbers)
        if dtype in (torch.float32, torch.float64):
            assert torch.equal(winner, their_winner)
    else:
        found = ops.roi_sample(maps, boxes, image, None, 4, 3, *numbers)
        expected = as_reference("roi_sample", maps, boxes, image, None, 4, 3, *numbers)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert found.is_contiguous(memory_format=layout)
    shape = [2, channels, 16, 20, 8, 12]
    grad = torch.randn(found.shape, generator=generator).to(dtype).contiguous(memory_format=layout)
    spread = ops.roi_spread(grad, boxes, image, winner, shape, *numbers, channels_last, False)
    for a, b in zip(
        spread,
        as_reference("roi_spread", grad, boxes, image, winner, shape, *numbers, channels_last, False),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
    assert sum(a.abs().sum() for a in spread) > 0


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    op, boxes = RoIOp.preset(name), some_boxes(3, 6).double()[None]
    feature = torch.randn(
        *(1, channels_for(op, 2, 4), 6, 7),
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(2),
    ).requires_grad_()
    valid = torch.tensor([[True, True, False]])

    def pooled(x: Tensor) -> Tensor:
        return op({16: x}, boxes, valid, 2)

    assert torch.autograd.gradcheck(pooled, feature)
    assert torch.autograd.gradgradcheck(pooled, feature)


def test_worked_examples_of_the_articles() -> None:
    # 800 / 32: the box of 665 px is rounded to cells 0..21, 22 of them.
    ramp = torch.arange(25.0).expand(1, 1, 25, 25).contiguous()
    pooled = roi_pool(ramp, torch.tensor([[0.0, 0, 0, 665, 665]]), 7, 1 / 32)
    assert pooled[0, 0, 0].tolist() == [math.ceil((p + 1) * (22 / 7)) - 1 for p in range(7)]
    # 200 x 145 at (296, 192), stride 32, 3x3 bins, thirds: the first bin reads x = 9.94, 10.64 and y = 6.50, 7.01.
    x, y = (
        (torch.arange(16.0) + 0.5).expand(1, 1, 16, 16),
        (torch.arange(16.0) + 0.5)[:, None].expand(1, 1, 16, 16),
    )
    box = torch.tensor([[0.0, 296, 192, 496, 337]])
    at = [
        roi_align(f.contiguous(), box, 3, 1 / 32, 2, True, sample_position="thirds")[0, 0, 0, 0].item()
        for f in (x, y)
    ]
    assert at == pytest.approx([(9.9444 + 10.6389) / 2, (6.5035 + 7.0069) / 2], abs=1e-3)
    # RoIAlign(output_size=2, spatial_scale=5, sampling_ratio=2) on an 8x8 map.
    feature, box = features_for(8)[..., :8], torch.tensor([[0, 0, 0.375, 0.875, 0.625]])
    expected = torchvision.ops.RoIAlign(2, 5, 2)(feature, box)
    torch.testing.assert_close(maskrcnn_ops.RoIAlign(2, 5, 2)(feature, box), expected)


def test_the_centre_of_a_ramp_moves_by_half_a_cell_with_each_shift() -> None:
    ramp = torch.arange(20.0).expand(1, 1, 20, 20).contiguous()
    box, valid = torch.tensor([[[32.0, 32, 96, 96]]]), torch.ones(1, 1, dtype=torch.bool)
    centre = {
        name: RoIOp.preset(name)({8: ramp}, box, valid, 7).mean().item()
        for name in ("align", "align_legacy", "warp")
    }
    true = 64 / 8 - 0.5
    assert centre == pytest.approx({"align": true, "align_legacy": true + 0.5, "warp": true + 1.0}, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_edge_cases(name: str) -> None:
    op = RoIOp.preset(name)
    feature = features_for(9, channels_for(op, 3, 4)).requires_grad_()
    strange = torch.tensor([[math.nan, 0, 9, 9], [0, 0, math.inf, 9], [-math.inf, 0, 9, 9]])[None]
    out = op({8: feature}, strange, torch.ones(1, 3, dtype=torch.bool), 2)
    assert (out == 0).all()
    out.sum().backward()
    assert feature.grad is not None
    assert (feature.grad == 0).all()
    huge = op(
        {8: feature}, torch.tensor([[[-1e30, -1e30, 1e30, 1e30]]]), torch.ones(1, 1, dtype=torch.bool), 2
    )
    assert huge.isfinite().all()
    none = op({8: feature}, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.bool), 2)
    assert none.shape == (0, 3, 2, 2)


def test_wrong_arguments_in_words() -> None:
    feature = features_for(0)
    with pytest.raises(ValueError, match="image index 3 is out of range"):
        roi_align(feature, torch.tensor([[3.0, 0, 0, 8, 8]]), 2)
    with pytest.raises(ValueError, match=r"boxes: expected Tensor\[K, 5\]"):
        roi_align(feature, torch.zeros(1, 4), 2)
    with pytest.raises(ValueError, match="reduction"):
        RoIOp(reduction="sum")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_pyramid_call_equals_each_box_on_its_level(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    op = RoIOp.preset(name)
    channels = channels_for(op, 3, 9)
    features = {s: torch.randn(2, channels, 512 // s, 512 // s, generator=generator) for s in (4, 8, 16, 32)}
    corner = torch.rand(2, 10, 2, generator=generator) * 200
    side = torch.tensor([20.0, 60, 111, 113, 150, 223, 225, 300, 440, 460])[None, :, None]
    boxes = torch.cat([corner, corner + side], -1)
    valid = torch.rand(2, 10, generator=generator) > 0.2
    out = op(features, boxes, valid, 3).view(2, 10, 3, 3, 3)
    for n in range(2):
        for k in range(10):
            level = min(max(math.floor(4 + math.log2(float(side[0, k, 0]) / 224) + 1e-6), 2), 5)
            alone = op(
                {2**level: features[2**level][n : n + 1]},
                boxes[n : n + 1, k : k + 1],
                valid[n : n + 1, k : k + 1],
                3,
            )
            torch.testing.assert_close(out[n, k], alone[0])
            assert bool(valid[n, k]) == bool(alone.abs().sum() > 0)


def test_the_level_is_bounded_by_the_maps_alone() -> None:
    """FPN's formula stops at stride 32; here a coarser map is used where there is one, and between two the finer."""
    sides = {20.0: 4, 223.0: 8, 224.0: 16, 450.0: 32, 900.0: 64, 4000.0: 64}
    boxes = torch.tensor([[[0.0, 0, side, side] for side in sides]])
    maps = {s: torch.full((1, 1, 4096 // s, 4096 // s), float(s)) for s in (4, 8, 16, 32, 64)}
    valid = torch.ones(1, len(sides), dtype=torch.bool)

    def strides(*used: int) -> list[float]:
        return RoIOp()({s: maps[s] for s in used}, boxes, valid, 1).flatten().tolist()

    assert strides(4, 8, 16, 32, 64) == list(sides.values())
    assert strides(4, 8, 16, 32) == [4, 8, 16, 32, 32, 32]
    assert strides(4, 32) == [4, 4, 4, 32, 32, 32]
    assert strides(16, 32) == [16, 16, 16, 32, 32, 32]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_twice_and_with_one_or_two_threads(name: str) -> None:
    op, boxes, valid = RoIOp.preset(name), some_boxes(40, 7)[None], torch.ones(1, 40, dtype=torch.bool)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        feature = features_for(3, channels_for(op, 19, 49)).requires_grad_()
        out = op({8: feature}, boxes, valid, 7)
        out.square().sum().backward()
        results.append((out.detach(), feature.grad))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_opcheck_and_compile() -> None:
    feature, rows = features_for(0).requires_grad_(), torch.cat([torch.zeros(3, 1), some_boxes(3, 1)], 1)
    numbers = ([1 / 8], PRESETS["align"].packed())
    arguments = ([feature], rows[:, 1:].contiguous(), torch.zeros(3, dtype=torch.int64), None, 2, 2, *numbers)
    torch.library.opcheck(torch.ops.maskrcnn_ops.roi_sample, arguments)
    torch.library.opcheck(torch.ops.maskrcnn_ops.roi_maximum, (*arguments[:3], *arguments[4:]))
    compiled = torch.compile(
        lambda x: roi_align(x, rows, 2, 1 / 8, 2, True), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(feature), roi_align(feature, rows, 2, 1 / 8, 2, True))


@pytest.mark.parametrize("name", ["ps_align", "ps_pool", "ps_pool_rfcn", "ps_warp"])
def test_every_bin_reads_a_channel_of_its_own(name: str) -> None:
    """Channel k of the map is the constant k: bin (i, j) of channel c is ``(c P + i) P + j``, whatever the box."""
    feature = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 9, 11).contiguous()
    boxes = torch.tensor([[[8.0, 8, 40, 40], [20, 10, 60, 50], [5, 20, 70, 60]]])
    found = RoIOp.preset(name)({8: feature}, boxes, torch.ones(1, 3, dtype=torch.bool), 2)
    torch.testing.assert_close(found, torch.arange(8.0).view(1, 2, 2, 2).expand(3, 2, 2, 2))
