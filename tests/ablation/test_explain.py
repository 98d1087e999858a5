"""What the operators see, where it can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maskrcnn_ops import RoIOp, axis_reading

from maskrcnn.ablation.explain import shift_curve, smooth_map, view

FAMILY = ["align", "align_legacy", "warp", "warp_mnc", "pool"]


def test_the_articles_box_is_read_as_the_article_says() -> None:
    """800x800 image, stride 32, a box of 665: 20.78 cells, which the released code reads as 22 in bins of 3.14."""
    align = axis_reading(0, 665, 32, 7, 25, RoIOp.preset("align"))
    pool = axis_reading(0, 665, 32, 7, 25, RoIOp.preset("pool"))
    assert np.subtract(*align.region[::-1]) == pytest.approx(665 / 32)
    assert pool.region == (0, 22)
    assert [round(high - low, 2) for low, high in align.bins] == [2.97] * 7
    assert pool.bins == [(0, 4), (3, 7), (6, 10), (9, 13), (12, 16), (15, 19), (18, 22)]


def test_the_second_articles_samples_at_thirds() -> None:
    """A box of 200x145 at (296, 192) on 16x16 cells of 32 pixels, 3x3 bins."""
    operator = RoIOp(sample_position="thirds")
    x, y = axis_reading(296, 496, 32, 3, 16, operator), axis_reading(192, 337, 32, 3, 16, operator)
    assert x.region == pytest.approx((9.25, 15.5))
    assert x.points[0] == pytest.approx([9.94, 10.64], abs=0.006)
    assert y.points[0] == pytest.approx([6.50, 7.01], abs=0.006)


@pytest.mark.parametrize("name", FAMILY)
def test_a_bins_weights_are_a_mean_or_a_maximum(name: str) -> None:
    seen = view(RoIOp.preset(name), (40.0, 56.0, 150.0, 170.0), 16, (16, 16), 3)
    assert seen.weights.sum((2, 3)) == pytest.approx(np.ones((3, 3)))
    assert seen.seen.sum() == pytest.approx(1)
    assert seen.lost.sum() == pytest.approx(seen.gained.sum())


def test_every_cell_of_a_bin_may_be_its_maximum_alike() -> None:
    """The articles' box: what RoIPool loses, from cells that win with equal chances: 21.9 %."""
    bins = axis_reading(0, 665, 32, 7, 25, RoIOp.preset("pool")).bins
    chance = np.zeros(25)
    for low, high in bins:
        chance[int(low) : int(high)] += 1 / (high - low) / len(bins)
    true = np.clip(665 / 32 - np.arange(25), 0, 1) * 32 / 665
    lost = np.maximum(np.outer(true, true) - np.outer(chance, chance), 0).sum()
    seen = view(RoIOp.preset("pool"), (0.0, 0.0, 665.0, 665.0), 32, (25, 25), 7)
    assert lost == pytest.approx(0.219, abs=5e-4)
    assert seen.lost.sum() == pytest.approx(lost, abs=3e-3)


def test_two_cells_of_a_bin_win_alike_on_any_map() -> None:
    """With so few cells two maps may well have the same winner."""
    for side in range(2, 8):
        seen = view(RoIOp.preset("pool"), (0.0, 0.0, 16.0, 7.0), 16, (side, side), 1)
        assert seen.weights[0, 0, 0, :2] == pytest.approx([0.5, 0.5], abs=0.03)
        assert seen.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(("name", "cells"), [("align", 0.0), ("align_legacy", 0.5), ("warp", 1.0)])
def test_the_regions_centre_is_shifted_as_the_definitions_say(name: str, cells: float) -> None:
    """On whole cells nothing is rounded: +0 cells with align, +0.5 with align_legacy, +1.0 with warp."""
    seen = view(RoIOp.preset(name), (32.0, 32.0, 96.0, 96.0), 16, (16, 16), 4)
    assert seen.shift == pytest.approx((16 * cells, 16 * cells), abs=1e-6)


def test_the_true_share_is_the_overlap_of_box_and_cells() -> None:
    seen = view(RoIOp.preset("align"), (8.0, 0.0, 32.0, 16.0), 16, (4, 4), 1)
    assert seen.true[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert seen.true[1:].sum() == 0


def test_a_whole_cells_shift_changes_nothing_and_half_a_cell_changes_pool_most() -> None:
    shifts = np.array([0.0, 8.0, 16.0])
    maps = smooth_map((12, 20), 16)
    box = (35.0, 35.0, 99.0, 99.0)
    change = {n: shift_curve(RoIOp.preset(n), maps, box, 16, 7, shifts) for n in ("align", "warp", "pool")}
    for values in change.values():
        assert values[0] == 0
        assert values[2] == pytest.approx(0, abs=1e-3)
    assert change["align"][1] < change["warp"][1] / 2
    assert change["align"][1] < change["pool"][1] / 2


def test_an_operator_of_ones_own_is_seen_too() -> None:
    def whole_map(
        features: dict[int, torch.Tensor], boxes: torch.Tensor, valid: torch.Tensor, output_size: int
    ) -> torch.Tensor:
        (feature,) = features.values()
        return feature.mean((2, 3), keepdim=True).expand(-1, -1, output_size, output_size)

    seen = view(whole_map, (0.0, 0.0, 16.0, 16.0), 16, (2, 2), 1)
    assert seen.seen.ravel().tolist() == pytest.approx([0.25] * 4)
    assert (seen.lost.sum(), seen.shift) == (pytest.approx(0.75), pytest.approx((8.0, 8.0)))
