"""The paper's claims about RoIAlign, RoIWarp and RoIPool, tested against the runs of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import Estimate, mean_interval, paired_by_seed, show_interval, signed
from maskrcnn.ablation.summary import Row, name_of, paired_values, place_name, published_difference

_METRICS = ("segm_AP", "segm_AP75", "bbox_AP", "keypoints_AP")


class Verdict(Enum):
    """Whether the runs support a claim."""

    HOLDS = "yes"
    FAILS = "no"
    OPEN = "not resolved"
    ONE_RUN = "one run, not resolved"


@dataclass(frozen=True)
class Claim:
    """A claim, what the runs give, what the paper has, and whether the claim holds here."""

    claim: str
    here: str
    paper: str
    verdict: Verdict


@dataclass(frozen=True)
class _Place:
    """The rows of all operators at one place of the other axes."""

    table: Table
    axes: dict[str, str]
    rows: dict[str, Row]

    @property
    def at(self) -> str:
        return f" at {place_name(self.axes)}" if self.axes else ""

    def values(
        self, metric: str, second: str = "pool", first: str = "align"
    ) -> tuple[list[float], list[float]]:
        """A metric of two operators, seed by seed; empty where one has no run."""
        if not {first, second} <= self.rows.keys():
            return [], []
        return paired_values(self.rows[first], self.rows[second], metric)

    def gains(self, metric: str, second: str = "pool", first: str = "align") -> list[float]:
        """``first`` minus ``second`` of every seed that both have."""
        return [a - b for a, b in zip(*self.values(metric, second, first), strict=True)]

    def paper(self, metric: str, second: str = "pool", first: str = "align") -> float | None:
        """The published difference."""
        one, two = ({**self.axes, "roi_op": operator} for operator in (first, second))
        return published_difference(self.table, one, two, metric)

    def with_seeds(self, seeds: set[int]) -> _Place:
        """The same place, cut to some seeds."""
        rows = {
            name: Row(row.axes, [r for r in row.records if r["seed"] in seeds])
            for name, row in self.rows.items()
        }
        return _Place(self.table, self.axes, rows)


def claims(table: Table, rows: Sequence[Row]) -> list[Claim]:
    """The claims that the table's runs can test."""
    if not {"align", "pool"} <= table.axes.get("roi_op", {}).keys():
        return []
    places: list[_Place] = []
    for row in rows:
        axes = row.without("roi_op")
        place = next((p for p in places if p.axes == axes), None)
        if place is None:
            places.append(place := _Place(table, axes, {}))
        place.rows[row.axes["roi_op"]] = row
    found = [claim for place in places for claim in _align_beats_pool(place)]
    found += _more_at_32(places)
    found += [claim for place in places for claim in _most_in_detail(place)]
    found += [claim for place in places for claim in _warp_is_about_pool(place)]
    return found


def _align_beats_pool(place: _Place) -> Iterator[Claim]:
    for metric in _METRICS:
        if gains := place.gains(metric):
            gain = mean_interval(gains)
            text = f"align − pool > 0 in {name_of(metric)}{place.at}"
            yield Claim(text, show_interval(gain), _signed(place.paper(metric)), _verdict(gain))


def _more_at_32(places: Sequence[_Place]) -> Iterator[Claim]:
    """The gain grows with the stride: as a share of align's AP, and in points."""
    at = {
        p.axes["stride"]: p
        for p in places
        if p.axes.keys() == {"stride"} and {"align", "pool"} <= p.rows.keys()
    }
    if not {"16", "32"} <= at.keys():
        return
    every = [{r["seed"] for r in at[s].rows[o].records} for s in ("16", "32") for o in ("align", "pool")]
    fine, coarse = (at[stride].with_seeds(set.intersection(*every)) for stride in ("16", "32"))
    sides = [place.values("segm_AP") for place in (fine, coarse)]
    if all(first and 0 not in first for first, _ in sides):
        shares = [[(x - y) / x for x, y in zip(a, b, strict=True)] for a, b in sides]
        text = "the share of align's mask AP that pool loses is larger at stride 32 than at 16"
        yield _more(text, shares[1], shares[0], [_paper_share(place) for place in (coarse, fine)], 2)
    for metric in ("segm_AP", "segm_AP75"):
        first, second = coarse.gains(metric), fine.gains(metric)
        if first and len(first) == len(second):
            text = f"align − pool in {name_of(metric)} is more points at stride 32 than at 16"
            yield _more(text, first, second, [place.paper(metric) for place in (coarse, fine)])


def _paper_share(place: _Place) -> float | None:
    gain, best = (
        place.paper("segm_AP"),
        place.table.published({**place.axes, "roi_op": "align"}).get("segm_AP"),
    )
    return None if gain is None or best is None else gain / best


def _most_in_detail(place: _Place) -> Iterator[Claim]:
    """The gain is largest at high IoU and on small objects."""
    for metric, other, names in (
        ("segm_AP75", "segm_AP50", "mask AP75 than in mask AP50"),
        ("segm_APs", "segm_APm", "mask AP of small than of medium objects (below 32, 96 px)"),
    ):
        first, second = place.gains(metric), place.gains(other)
        if first and len(first) == len(second):
            text = f"align − pool is more in {names}{place.at}"
            yield _more(text, first, second, [place.paper(m) for m in (metric, other)])


def _more(
    text: str, first: Sequence[float], second: Sequence[float], paper: Sequence[float | None], digits: int = 1
) -> Claim:
    """Claim that ``first`` is above ``second``, run by run. digits: 1 for points, 2 for shares, which have no sign."""
    more = paired_by_seed(first, second)
    here, there = (
        " against ".join("" if v is None else signed(v) if digits == 1 else f"{v:.2f}" for v in sides)
        for sides in ([float(np.mean(first)), float(np.mean(second))], paper)
    )
    published = "–" if None in paper else there
    return Claim(text, f"{here}, difference {show_interval(more, digits)}", published, _verdict(more))


def _warp_is_about_pool(place: _Place) -> Iterator[Claim]:
    """``|warp − pool| < (align − pool) / 4``: both the gap and its negative are below the quarter."""
    if not {"align", "warp", "pool"} <= place.rows.keys():
        return
    three = [place.rows[operator].records for operator in ("align", "warp", "pool")]
    cut = place.with_seeds(set.intersection(*({r["seed"] for r in records} for records in three)))
    gains, gaps = cut.gains("segm_AP"), cut.gains("segm_AP", "pool", "warp")
    if not gains or len(gains) != len(gaps):
        return
    sides = [
        _verdict(mean_interval([g / 4 - sign * gap for g, gap in zip(gains, gaps, strict=True)]))
        for sign in (1, -1)
    ]
    worst = next((v for v in (Verdict.FAILS, Verdict.ONE_RUN, Verdict.OPEN) if v in sides), Verdict.HOLDS)
    gap, gain = (show_interval(mean_interval(values)) for values in (gaps, gains))
    text = f"|warp − pool| is below a quarter of align − pool in mask AP{place.at}"
    published = [place.paper("segm_AP", "pool", "warp"), place.paper("segm_AP")]
    paper = "–" if None in published else f"{_signed(published[0])} and {_signed(published[1])}"
    yield Claim(text, f"warp − pool {gap}, align − pool {gain}", paper, worst)


def _verdict(estimate: Estimate) -> Verdict:
    if estimate.low is None:
        return Verdict.ONE_RUN
    if not estimate.resolved:
        return Verdict.OPEN
    return Verdict.HOLDS if estimate.mean > 0 else Verdict.FAILS


def _signed(difference: float | None) -> str:
    return "–" if difference is None else signed(difference)
