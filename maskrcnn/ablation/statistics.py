"""Means, confidence intervals and paired differences over a few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval.

    Args:
        mean: the mean.
        low: lower end of the interval; None if there is a single value.
        high: upper end of the interval; None if there is a single value.
        count: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of independent runs with Student's t interval, ``mean ± t(n - 1) s / sqrt(n)``.

    Args:
        values: one value per run.
        level: confidence level.

    Raises:
        ValueError: there are no values.
    """
    if len(values) == 0:
        raise ValueError("a mean needs at least one value")
    x = np.asarray(values, np.float64)
    mean = float(x.mean())
    if len(x) == 1:
        return Estimate(mean, None, None, 1)
    half = float(stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(len(x)))
    return Estimate(mean, mean - half, mean + half, len(x))


def paired_by_seed(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of ``first - second`` over pairs of runs with the same seed, with Student's t interval.

    Args:
        first: one value per seed.
        second: values of the other side, in the same order of seeds.
        level: confidence level.

    Raises:
        ValueError: the two sides have different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need as many runs on both sides, not {len(first)} and {len(second)}")
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], level)


def paired_bootstrap(
    first: Floats,
    second: Floats,
    groups: npt.NDArray[np.int64] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean of ``first - second`` over images or objects, with a bootstrap interval (Efron 1979).

    The interval shows how much the difference depends on the choice of images. `paired_by_seed` shows how much it
    depends on the training.

    Args:
        first: scores ``[I]``; NaN for a missing score.
        second: scores ``[I]`` of the other side.
        groups: ``[I]``, the image of each object. Images are then drawn with all their objects.
        level: confidence level.
        resamples: number of bootstrap samples.
        seed: random seed of the samples.

    Raises:
        ValueError: the sides differ in shape, or no image has a score on both sides.
    """
    if first.shape != second.shape:
        raise ValueError(f"pairs need as many scores on both sides, not {first.shape} and {second.shape}")
    difference = first - second
    known = np.isfinite(difference)
    difference = difference[known]
    if difference.size == 0:
        raise ValueError("no image has a score on both sides")
    index = np.arange(difference.size)
    if groups is not None:
        index = np.unique(groups[known], return_inverse=True)[1]
    sums, sizes = np.bincount(index, difference), np.bincount(index)
    rng = np.random.default_rng(seed)
    # Multinomial counts resample without a matrix of indices.
    counts = rng.multinomial(sums.size, np.full(sums.size, 1 / sums.size), size=resamples)
    means = counts @ sums / (counts @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(difference.mean()), float(low), float(high), int(difference.size))


def lost_share(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of ``(first - second) / first`` over runs: the share of the first's AP that the second loses.

    Args:
        first: AP of each run.
        second: AP of the other side, in the same order.

    Raises:
        ValueError: a value of ``first`` is 0.
    """
    if any(a == 0 for a in first):
        raise ValueError("a share of 0 AP is not defined")
    return mean_interval([(a - b) / a for a, b in zip(first, second, strict=True)])


def show(
    estimate: Estimate | None, sign: bool = False, digits: int = 1, scale: float = 1, unit: str = ""
) -> str:
    """Format an estimate as ``27.4 ± 1.2``, with a true minus sign; None is ``–``.

    Args:
        estimate: the estimate.
        sign: whether positive means get a plus sign.
        digits: digits after the decimal point.
        scale: factor of mean and interval, for example 100 for percent.
        unit: text to append.
    """
    if estimate is None:
        return "–"
    mean = signed(scale * estimate.mean, digits)
    mean = mean if sign else mean.removeprefix("+")
    half = "" if estimate.half is None else f" ± {scale * estimate.half:.{digits}f}"
    return f"{mean}{half}{unit}"


def show_interval(estimate: Estimate | None, digits: int = 1) -> str:
    """Format an estimate as ``+1.2 [+0.4, +2.0]``, or the mean alone if it has no interval; None is ``–``.

    Args:
        estimate: the estimate.
        digits: digits after the decimal point.
    """
    if estimate is None:
        return "–"
    mean, low, high = (signed(value, digits) for value in (estimate.mean, estimate.low, estimate.high))
    return mean if estimate.low is None else f"{mean} [{low}, {high}]"


def signed(value: float | None, digits: int = 1) -> str:
    """Format a number as ``+1.2`` or ``−1.2``, with a true minus sign; zero is ``+0.0`` and None is ``–``.

    Args:
        value: the number.
        digits: digits after the decimal point.
    """
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
