"""Gradients of the box coordinates against finite differences in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from maskrcnn_ops import RoIAlign, roi_align, roi_warp
from torch import Tensor

IMAGE = torch.tensor([[0.0], [1.0], [1.0]], dtype=torch.float64)
# Pixels on maps of 9 x 8 cells of 8 pixels: inside, over the left and the lower edge, over the right and the upper one.
BOXES = torch.tensor(
    [[9.3, 7.9, 40.1, 33.7], [-17.3, 20.3, 31.9, 75.9], [41.3, -13.7, 87.9, 12.1]], dtype=torch.float64
)
# Less than a cell wide, less than one high, both.
NARROW = torch.tensor(
    [[9.3, 7.9, 12.1, 33.7], [20.1, 30.3, 60.7, 33.9], [20.1, 30.3, 22.7, 33.9]], dtype=torch.float64
)
# At stride 8 the edges round to 1..5 and 1..7, -2..4 and 3..7, 4..10 and -1..3: with plus_one 5 or 7 cells,
# which puts no sample of two bins on a whole cell, where the interpolation has a kink.
ROUNDED = torch.tensor(
    [[9.3, 7.9, 40.1, 57.0], [-13.1, 20.3, 34.9, 52.9], [33.3, -6.1, 78.7, 25.3]], dtype=torch.float64
)
# Their edges round to 1..6 and 1..8, -2..3 and 3..6, 4..11 and -1..4: only the first sample is on a whole cell.
MNCS = torch.tensor(
    [[9.3, 7.9, 49.1, 65.0], [-13.1, 20.3, 26.9, 44.1], [33.3, -6.1, 89.7, 33.3]], dtype=torch.float64
)


def features() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 2, 8, 9, dtype=torch.float64, generator=generator)


def pooled(operator: Any, boxes: Tensor, **switches: Any) -> Tensor:
    rows = torch.cat([IMAGE, boxes], 1)
    return operator(features(), rows, 2, 1 / 8, box_gradient=True, **switches)  # type: ignore[no-any-return]


def gradient(operator: Any, boxes: Tensor, **switches: Any) -> Tensor:
    """Of a weighted sum of the output by the boxes."""
    boxes = boxes.clone().requires_grad_()
    out = pooled(operator, boxes, **switches)
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (found,) = torch.autograd.grad((out * weight).sum(), boxes)
    return found


def assert_finite_differences(operator: Any, boxes: Tensor, **switches: Any) -> None:
    """And that every box has a gradient."""
    assert torch.autograd.gradcheck(lambda b: pooled(operator, b, **switches), boxes.clone().requires_grad_())
    assert (gradient(operator, boxes, **switches).abs().sum(1) > 0).all()


ALIGN = partial(roi_align, sampling_ratio=2, aligned=True)
UNROUNDED = partial(roi_warp, sampling_ratio=2, box_rounding="none")


@pytest.mark.parametrize("boxes", [BOXES, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("operator", [ALIGN, UNROUNDED], ids=["align", "unrounded warp"])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"reduction": "max"},
        {"sampling_ratio": -1},
        {"sampling_ratio": -1, "reduction": "max"},
        {"sample_position": "corner"},
        {"sample_position": "thirds"},
        {"border": "mnc"},
        {"border": "mnc", "reduction": "max", "sample_position": "corner"},
        {"min_width": 1},
        {"min_width": 1, "plus_one": False, "reduction": "max"},
        {"min_width": 0},
    ],
    ids=lambda switches: " ".join(f"{k}={v}" for k, v in switches.items()) or "plain",
)
def test_equals_finite_differences(operator: Any, boxes: Tensor, switches: dict[str, Any]) -> None:
    assert_finite_differences(operator, boxes, **switches)


@pytest.mark.parametrize("operator", [roi_align, roi_warp, partial(roi_warp, preset="warp_continuous")])
def test_equals_finite_differences_with_the_defaults(operator: Any) -> None:
    assert_finite_differences(operator, BOXES, box_rounding="none")


def rounded_to_cells(boxes: Tensor) -> Tensor:
    """In pixels; half away from zero, though no edge here is at a half."""
    return (boxes / 8).round() * 8


@pytest.mark.parametrize("switches", [{}, {"sampling_ratio": 2}, {"sampling_ratio": 2, "reduction": "max"}])
def test_a_rounded_boxs_gradient_is_that_of_no_rounding_at_the_rounded_box(switches: dict[str, Any]) -> None:
    """Rounding counts as the identity."""
    assert_finite_differences(roi_warp, rounded_to_cells(ROUNDED), box_rounding="none", **switches)
    expected = gradient(roi_warp, rounded_to_cells(ROUNDED), box_rounding="none", **switches)
    torch.testing.assert_close(gradient(roi_warp, ROUNDED, **switches), expected)
    assert not torch.allclose(gradient(roi_warp, ROUNDED, box_rounding="none", **switches), expected)


def test_mncs_gradient_is_that_of_no_rounding_beside_the_rounded_box() -> None:
    """A bin's first sample lies on a whole cell, a kink: the derivative there is the one to the right."""
    mnc = partial(roi_warp, preset="warp_mnc")
    beside = rounded_to_cells(MNCS) + 1e-5
    assert_finite_differences(mnc, beside, box_rounding="none")
    expected = gradient(mnc, beside, box_rounding="none")
    torch.testing.assert_close(gradient(mnc, MNCS), expected, atol=1e-5, rtol=1e-5)


def test_only_on_request_and_only_once() -> None:
    rows = torch.cat([IMAGE, BOXES], 1).requires_grad_()
    for operator in (roi_align, roi_warp):
        assert not operator(features(), rows, 3, 1 / 8).requires_grad
        out = operator(features(), rows, 3, 1 / 8, box_gradient=True)
        (found,) = torch.autograd.grad(out.sum(), rows, create_graph=True)
        assert (found[:, 0] == 0).all()
        with pytest.raises(RuntimeError, match="second gradients through the box coordinates"):
            torch.autograd.grad(found.sum(), rows)
    with pytest.raises(ValueError, match=r"box_gradient: bins of whole cells \(bin_rounding\)"):
        RoIAlign(3, 1 / 8, 2, box_gradient=True, bin_rounding=True)(features(), rows)
