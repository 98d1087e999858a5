"""The operators against torchvision's on boxes of every kind, most of them on the map."""

from __future__ import annotations

from functools import partial
from typing import Any

import maskrcnn_ops
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from maskrcnn_ops import ps_roi_align, ps_roi_pool, roi_align, roi_pool
from torch import Tensor

from tests.ops.test_operators import some_boxes

IMAGES = 3
LAYOUTS = [torch.contiguous_format, torch.channels_last]
MAP = (96.0, 64.0)  # pixels across and down: 12 x 8 cells at stride 8
# Least and greatest side in pixels: below two cells, some cells, about the map's or more, empty, turned, off the map.
SIDES = np.array([(0.5, 16), (16, 60), (60, 500), (0, 0), (-60, -1), (1, 90)])
EMPTY, TURNED, OFF = 3, 4, 5


def rows_of_every_kind(seed: int, count: int = 24) -> Tensor:
    """``[count, 5]`` image index and box; as many of each kind of ``SIDES``, centred on the map but for the last."""
    rng = np.random.default_rng(seed)
    kind = (np.arange(count) % len(SIDES))[:, None]
    side = rng.uniform(*SIDES.T[:, kind], (count, 2))
    # Half of the empty and turned ones are so along one axis alone.
    ordinary = np.isin(kind, (EMPTY, TURNED)) & (np.arange(2) == rng.integers(0, 4, (count, 1)))
    side = np.where(ordinary, rng.uniform(1, 60, (count, 2)), side)
    away = rng.choice([-1, 1], (count, 2)) * rng.uniform(200, 600, (count, 2))
    away *= np.arange(2) != rng.integers(0, 4, (count, 1))  # along both axes or one
    centre = rng.random((count, 2)) * MAP + np.where(kind == OFF, away, 0)
    index = rng.integers(IMAGES, size=(count, 1))
    return torch.from_numpy(np.concatenate([index, centre - side / 2, centre + side / 2], 1)).float()


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert (
        expected != 0
    ).any()  # not zeros with zeros; some draws have many regions that are empty or off the map
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def assert_like_torchvision(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    feature, rows = torch.randn(IMAGES, 3, 8, 12, generator=generator), rows_of_every_kind(seed)
    turned = (rows[:, 3:] < rows[:, 1:3]).any(1)
    for aligned in (False, True):
        for ratio in (0, 1, 2, 3):
            arguments = (size, 1 / 8, ratio, aligned)
            # torchvision allocates a negative number of samples for these; here there are none.
            undefined = turned if aligned and ratio == 0 else torch.zeros_like(turned)
            assert (roi_align(feature, rows[undefined], *arguments) == 0).all()
            expected = torchvision.ops.roi_align(feature, rows[~undefined], *arguments)
            assert_same(roi_align(feature, rows[~undefined], *arguments), expected)
    expected = torchvision.ops.roi_pool(feature, rows, size, 1 / 8)
    assert_same(roi_pool(feature, rows, size, 1 / 8), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_equals_torchvision(seed: int, size: int) -> None:
    assert_like_torchvision(seed, size)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_equals_torchvision_a_thousand_times(seed: int, size: int) -> None:
    assert_like_torchvision(seed, size)


def test_boxes_of_every_kind_are_that() -> None:
    rows = torch.cat([rows_of_every_kind(seed) for seed in range(50)]).double()
    low, high = rows[:, 1:3], rows[:, 3:]
    size = torch.tensor(MAP, dtype=torch.float64)
    side, off = high - low, ((torch.maximum(low, high) < 0) | (torch.minimum(low, high) > size)).any(1)
    shares = {
        "off the map": off,
        "empty": (side == 0).any(1),
        "turned": (side < 0).any(1),
        "small": (side.abs() < 16).all(1) & (side > 0).all(1) & ~off,
        "large": (side > size).any(1) & ~off,
    }
    found = {name: float(share.double().mean()) for name, share in shares.items()}
    assert all(0.12 < share < 0.22 for share in found.values()), found
    assert set(rows[:, 0].tolist()) == set(range(IMAGES))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 70])
def test_gradients_equal_torchvisions(channels: int, layout: torch.memory_format) -> None:
    # Wide or high and off the map besides: bins of no rows and many columns, and the other way round.
    off = torch.tensor([[0.0, -500, 1500, -300], [10, -400, 1590, 60], [-900, 0, -500, 300], [5, 5, 9, 9]])
    boxes = torch.cat([some_boxes(9, 4), off])
    rows = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(1, channels, 20, 40, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(len(boxes), channels, 7, 7, generator=generator)
    for ours, theirs in (
        (
            lambda x: roi_align(x, rows, 7, 1 / 8, 2, True),
            lambda x: torchvision.ops.roi_align(x, rows, 7, 1 / 8, 2, True),
        ),
        (lambda x: roi_pool(x, rows, 7, 1 / 8), lambda x: torchvision.ops.roi_pool(x, rows, 7, 1 / 8)),
    ):
        a, b = (feature.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
        (ours(a) * weight).sum().backward()
        (theirs(b) * weight).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=1e-5)


def assert_position_sensitive_like_torchvision(seed: int, size: int, layout: torch.memory_format) -> None:
    """Forward and backward of each operator, over regions of every kind."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(IMAGES, 2 * size * size, 8, 12, generator=generator).contiguous(
        memory_format=layout
    )
    rows = rows_of_every_kind(seed)
    # torchvision divides by no samples for these and gives NaN; here they are 0.
    none = (rows[:, 3:] <= rows[:, 1:3]).any(1)
    assert (ps_roi_align(feature, rows[none], size, 1 / 8, 0) == 0).all()
    for ratio in (0, 1, 2, 3):
        chosen = rows[~none] if ratio == 0 else rows
        ours, theirs = both_with_gradients("ps_roi_align", feature, chosen, size, 1 / 8, ratio)
        assert_same(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1], atol=1e-5, rtol=1e-5)
    ours, theirs = both_with_gradients("ps_roi_pool", feature, rows, size, 1 / 8)
    assert_same(ours[0], theirs[0])
    # torchvision's forward never reads the last row and column, its backward gives them gradients all the same: that
    # of border="align". Regions away from them have one gradient.
    torch.testing.assert_close(
        with_gradient(partial(ps_roi_pool, border="align"), feature, rows, size, 1 / 8)[1],
        theirs[1],
        atol=1e-5,
        rtol=1e-5,
    )
    away = rows[(rows[:, 1:] / 8 < torch.tensor([10.5, 6.5]).repeat(2)).all(1)]
    ours, theirs = both_with_gradients("ps_roi_pool", feature, away, size, 1 / 8)
    assert len(away) > 0
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-5, rtol=1e-5)


def with_gradient(function: Any, feature: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of a weighted sum of it by the feature map."""
    leaf = feature.clone(memory_format=torch.preserve_format).requires_grad_()
    out = function(leaf, *arguments)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((out * weight).sum(), leaf)
    return out.detach(), gradient


def both_with_gradients(name: str, *arguments: Any) -> list[tuple[Tensor, Tensor]]:
    return [with_gradient(getattr(library, name), *arguments) for library in (maskrcnn_ops, torchvision.ops)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from(LAYOUTS))
def test_position_sensitive_operators_equal_torchvisions(
    seed: int, size: int, layout: torch.memory_format
) -> None:
    assert_position_sensitive_like_torchvision(seed, size, layout)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from(LAYOUTS))
def test_position_sensitive_operators_equal_torchvisions_many_times(
    seed: int, size: int, layout: torch.memory_format
) -> None:
    """24 regions a call and five operators: 36,000 regions."""
    assert_position_sensitive_like_torchvision(seed, size, layout)
