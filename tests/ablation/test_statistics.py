"""Samples whose means and intervals are known from tables or by hand."""

from __future__ import annotations

import numpy as np
import pytest

from maskrcnn.ablation.statistics import lost_share, mean_interval, paired_bootstrap, paired_by_seed


def test_students_interval_of_five_values() -> None:
    # s^2 = 2.5, t(0.975, 4) = 2.776 in every table.
    estimate = mean_interval([1, 2, 3, 4, 5])
    assert estimate.mean == 3
    assert estimate.half == pytest.approx(2.776 * np.sqrt(2.5 / 5), abs=1e-3)
    assert estimate.resolved


def test_students_interval_of_two_values() -> None:
    assert mean_interval([0.0, 2.0]).half == pytest.approx(12.706 * np.sqrt(2) / np.sqrt(2), abs=1e-3)


def test_one_value_has_no_interval_and_resolves_nothing() -> None:
    estimate = mean_interval([7.0])
    assert (estimate.mean, estimate.low, estimate.high, estimate.resolved) == (7.0, None, None, False)


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_pairing_cancels_what_the_seeds_share() -> None:
    seeds = [10.0, 30.0, 50.0]
    paired = paired_by_seed([11.0, 31.1, 50.9], seeds)
    assert paired.mean == pytest.approx(1.0)
    assert paired.half == pytest.approx(4.303 * 0.1 / np.sqrt(3), abs=1e-3)
    assert paired.resolved


def test_a_difference_around_zero_is_not_resolved() -> None:
    assert not paired_by_seed([1.0, 2.0, 3.0], [2.0, 1.0, 3.5]).resolved


def test_unequal_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="not 2 and 1"):
        paired_by_seed([1, 2], [1])


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_images() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(3.0, 2.0, 400)
    estimate = paired_bootstrap(first, np.zeros(400))
    half = 1.96 * first.std() / np.sqrt(400)
    assert estimate.mean == pytest.approx(first.mean())
    assert estimate.low == pytest.approx(first.mean() - half, abs=0.03)
    assert estimate.high == pytest.approx(first.mean() + half, abs=0.03)


def test_the_bootstrap_leaves_out_images_without_a_score_and_repeats_itself() -> None:
    first, second = np.array([1.0, np.nan, 3.0, 5.0]), np.array([0.0, 1.0, np.nan, 1.0])
    estimate = paired_bootstrap(first, second)
    assert (estimate.mean, estimate.count) == (2.5, 2)
    assert estimate == paired_bootstrap(first, second)
    with pytest.raises(ValueError, match="both sides"):
        paired_bootstrap(np.array([np.nan]), np.array([1.0]))


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        sample = rng.exponential(1.0, 100)
        estimate = paired_bootstrap(sample, np.zeros(100), resamples=500, seed=seed)
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= 1.0 <= estimate.high
    assert 0.88 <= held / 200 <= 0.99


def test_the_share_lost() -> None:
    estimate = lost_share([20.0, 40.0], [15.0, 20.0])
    assert estimate.mean == pytest.approx((0.25 + 0.5) / 2)
    with pytest.raises(ValueError, match="0 AP"):
        lost_share([0.0], [0.0])


def test_objects_that_say_the_same_count_as_their_images() -> None:
    """Ten objects of equal differences in every image know no more than one of each."""
    images = np.random.default_rng(2).normal(1.0, 2.0, 60)
    objects, groups = np.repeat(images, 10), np.repeat(np.arange(60) + 7, 10)
    grouped = paired_bootstrap(objects, np.zeros(600), groups)
    alone = paired_bootstrap(images, np.zeros(60))
    assert grouped.mean == pytest.approx(alone.mean)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert grouped.count == 600
    apart = paired_bootstrap(objects, np.zeros(600))
    assert apart.half is not None
    assert grouped.half is not None
    assert grouped.half / apart.half == pytest.approx(np.sqrt(10), rel=0.05)


def test_an_image_weighs_as_many_objects_as_it_has() -> None:
    """Two images, of one object and of three: means of the draws are 0, 3/4 and 1."""
    estimate = paired_bootstrap(np.array([0.0, 1.0, 1.0, 1.0]), np.zeros(4), np.array([5, 9, 9, 9]))
    assert (estimate.mean, estimate.low, estimate.high) == (0.75, 0.0, 1.0)
    middle = paired_bootstrap(np.array([0.0, 1.0, 1.0, 1.0]), np.zeros(4), np.array([5, 9, 9, 9]), level=0.4)
    assert (middle.low, middle.high) == (0.75, 0.75)
