"""What the runs of a table show, in at most three sentences, and whether the paper's claims hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import Estimate, mean_interval, paired_by_seed, show, show_interval, signed
from maskrcnn.ablation.summary import (
    Difference,
    Row,
    differences,
    grouped,
    kinds_of,
    matched,
    name_of,
    paired,
    place_name,
)

_MANY = 4  # with more compared values, the differences are summarised
_METRICS = ("segm_AP", "segm_AP75", "bbox_AP", "keypoints_AP")


class Verdict(Enum):
    """Whether the runs support a claim."""

    HOLDS = "yes"
    FAILS = "no"
    OPEN = "not resolved"
    ONE_RUN = "one run, not resolved"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its test.

    Attributes:
        claim: the claim.
        here: the numbers of the table's runs.
        paper: the numbers of the paper; ``–`` if it has none.
        verdict: whether the runs support the claim.
    """

    claim: str
    here: str
    paper: str
    verdict: Verdict


def claims(table: Table, rows: Sequence[Row]) -> list[Claim]:
    """Test the paper's claims about align, warp and pool.

    Args:
        table: the table.
        rows: its rows.

    Returns:
        The claims that the runs can test; empty for a table without align and pool.
    """
    if not {"align", "pool"} <= table.axes.get("roi_op", {}).keys():
        return []
    places = [place for place in grouped(rows, "roi_op").values() if {"align", "pool"} <= place.keys()]
    found = [paired(table, "roi_op", p["align"], p["pool"], "segm_AP") for p in places]
    return [
        *(claim for align_pool in found for claim in _align_beats_pool(align_pool)),
        *_more_at_32(found),
        *(claim for align_pool in found for claim in _most_in_detail(align_pool)),
        *(claim for place in places if "warp" in place for claim in _warp_is_about_pool(table, place)),
    ]


def _align_beats_pool(align_pool: Difference) -> Iterator[Claim]:
    for d in (replace(align_pool, metric=metric) for metric in _METRICS):
        if d.gains:
            text = f"align − pool > 0 in {name_of(d.metric)}{d.at}"
            yield Claim(text, show_interval(d.by_seed), signed(d.paper), _verdict(d.by_seed))


def _more_at_32(found: Sequence[Difference]) -> Iterator[Claim]:
    """Claims that the gain is larger at stride 32 than at 16: as a share of align's AP, and in points."""
    at = {d.axes["stride"]: d for d in found if d.axes.keys() == {"stride"}}
    if not {"16", "32"} <= at.keys():
        return
    rows = matched(at["32"].row, at["32"].other, at["16"].row, at["16"].other)
    coarse = replace(at["32"], row=rows[0], other=rows[1])
    fine = replace(at["16"], row=rows[2], other=rows[3])
    both = (coarse, fine)
    if all(d.values[0] and 0 not in d.values[0] for d in both):
        shares = [[gain / own for gain, own in zip(d.gains, d.values[0], strict=True)] for d in both]
        text = "the share of align's mask AP that pool loses is larger at stride 32 than at 16"
        yield _more(text, shares[0], shares[1], [_paper_share(d) for d in both], digits=2)
    for metric in ("segm_AP", "segm_AP75"):
        text = f"align − pool in {name_of(metric)} (points) is larger at stride 32 than at 16"
        yield from _more_points(text, replace(coarse, metric=metric), replace(fine, metric=metric))


def _paper_share(difference: Difference) -> float | None:
    best = difference.table.published(difference.row.axes).get(difference.metric)
    return None if difference.paper is None or best is None else difference.paper / best


def _most_in_detail(align_pool: Difference) -> Iterator[Claim]:
    """Claims that the gain is largest at high IoU and on small objects."""
    for metric, other, names in (
        ("segm_AP75", "segm_AP50", "mask AP75 than in mask AP50"),
        ("segm_APs", "segm_APm", "mask AP of small (below 32 px) than of medium objects (32 to 96 px)"),
    ):
        text = f"align − pool is larger in {names}{align_pool.at}"
        yield from _more_points(text, replace(align_pool, metric=metric), replace(align_pool, metric=other))


def _more_points(text: str, one: Difference, two: Difference) -> Iterator[Claim]:
    """Claim that difference ``one`` is larger than ``two``, if the same runs have both."""
    if one.gains and len(one.gains) == len(two.gains):
        yield _more(text, one.gains, two.gains, [one.paper, two.paper], digits=1)


def _more(
    text: str, first: Sequence[float], second: Sequence[float], paper: Sequence[float | None], digits: int
) -> Claim:
    """Claim that ``first`` is larger than ``second``, paired by run.

    ``digits`` is 1 for points, which are shown with a sign, and 2 for shares.
    """
    more = paired_by_seed(first, second)
    here, there = (
        " against ".join(signed(v) if digits == 1 or v is None else f"{v:.2f}" for v in sides)
        for sides in ([float(np.mean(first)), float(np.mean(second))], paper)
    )
    published = "–" if None in paper else there
    return Claim(text, f"{here}, difference {show_interval(more, digits)}", published, _verdict(more))


def _warp_is_about_pool(table: Table, place: dict[str, Row]) -> Iterator[Claim]:
    """Claim that ``|warp − pool| < (align − pool) / 4``, tested for both signs of warp − pool."""
    align, warp, pool = matched(place["align"], place["warp"], place["pool"])
    gap, gain = (Difference(table, "roi_op", row, pool, "segm_AP") for row in (warp, align))
    if not gain.gains or len(gain.gains) != len(gap.gains):
        return
    sides = [
        _verdict(mean_interval([g / 4 - sign * w for g, w in zip(gain.gains, gap.gains, strict=True)]))
        for sign in (1, -1)
    ]
    worst = next((v for v in (Verdict.FAILS, Verdict.ONE_RUN, Verdict.OPEN) if v in sides), Verdict.HOLDS)
    text = f"|warp − pool| is below a quarter of align − pool in mask AP{gap.at}"
    here = f"warp − pool {show_interval(gap.by_seed)}, align − pool {show_interval(gain.by_seed)}"
    paper = "–" if None in (gap.paper, gain.paper) else f"{signed(gap.paper)} and {signed(gain.paper)}"
    yield Claim(text, here, paper, worst)


def _verdict(estimate: Estimate) -> Verdict:
    if estimate.low is None:
        return Verdict.ONE_RUN
    if not estimate.resolved:
        return Verdict.OPEN
    return Verdict.HOLDS if estimate.mean > 0 else Verdict.FAILS


def sentences(table: Table, rows: Sequence[Row]) -> list[str]:
    """State the result in AP: the gain of the compared value, the share that the other loses, further differences.

    Args:
        table: the table.
        rows: its rows.

    Returns:
        At most three sentences; none if the runs have no AP.
    """
    if not (kinds := kinds_of(rows)):
        return []
    metric = f"{kinds[0]}_AP"
    found = differences(table, rows, [metric])
    if not found:
        return _range(rows, metric)
    assert table.compare is not None
    if len(table.axes[table.compare.axis]) > _MANY:
        return _many(found, rows, metric, table.compare.of)
    last = "pool" if any(d.second == "pool" for d in found) else found[-1].second
    main = [d for d in found if d.second == last and d.first == table.compare.of]
    rest = [d for d in found if d not in main and (d.second == last or last not in {x.second for x in found})]
    return [*_stated(main, f", in points of {name_of(metric)}"), *_shares(main, metric), *_stated(rest)]


def _stated(found: Sequence[Difference], of: str = "") -> list[str]:
    """A sentence with one difference at every combination of the other axes, and the paper's differences."""
    if not found:
        return []
    first, second = found[0].first, found[0].second
    same = [d for d in found if (d.first, d.second) == (first, second)]
    at = _each(same, lambda d: f"{show_interval(d.by_seed)}{d.at}")
    return [f"{_capital(first)} − {second}{of}: {at}{_paper(same)}."]


def _shares(main: Sequence[Difference], metric: str) -> list[str]:
    known = [d for d in main if d.share is not None]
    if not known or min(d.by_seed.mean for d in known) <= 0:
        return []
    of = f" of {known[0].first}'s {name_of(metric)}"
    at = _each(
        known, lambda d: f"{show(d.share, scale=100, digits=0, unit=' %')}{of if d is known[0] else ''}{d.at}"
    )
    return [f"{_capital(known[0].second)} loses {at}."]


def _many(found: Sequence[Difference], rows: Sequence[Row], metric: str, of: str) -> list[str]:
    own = [d for d in found if d.first == of]
    sure = sorted((d for d in own if d.by_seed.resolved), key=lambda d: -abs(d.by_seed.mean))
    open_ones = [d.by_seed.mean for d in own if not d.by_seed.resolved]
    best = next(row for row in rows if of in row.axes.values()).estimate(metric)
    lines = [f"{_capital(of)} has {show(best)} {name_of(metric)}; {len(own)} variants are compared with it."]
    if sure:
        largest = "; ".join(f"{d.second} {signed(-d.by_seed.mean)} ± {d.by_seed.half:.1f}" for d in sure[:3])
        lines.append(
            f"{len(sure)} of them differ from {of}: the 95 % interval excludes 0. Largest differences: {largest}."
        )
    if open_ones:
        low, high = signed(-max(open_ones)), signed(-min(open_ones))
        lines.append(
            f"The other {len(open_ones)} differ from {of} by {low} to {high} points, which is not resolved."
        )
    return lines


def _range(rows: Sequence[Row], metric: str) -> list[str]:
    known = [(row, estimate) for row in rows if (estimate := row.estimate(metric)) is not None]
    if not known:
        return []
    ends = (max(known, key=lambda pair: pair[1].mean), min(known, key=lambda pair: pair[1].mean))
    shown = [f"{place_name(row.axes)} ({show(estimate)})" for row, estimate in ends]
    return [f"Highest {name_of(metric)}: {shown[0]}; lowest: {shown[1]}."]


def _paper(found: Sequence[Difference]) -> str:
    known = [d for d in found if d.paper is not None]
    return f" (paper: {_each(known, lambda d: f'{signed(d.paper or 0)}{d.at}')})" if known else ""


def _each(found: Sequence[Difference], text: Callable[[Difference], str]) -> str:
    parts = [text(d) for d in found]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
