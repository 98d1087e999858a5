"""The paper's claims about RoIAlign, RoIWarp and RoIPool, held against the runs of a table."""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import Estimate, lost_share, mean_interval, paired_by_seed, signed
from maskrcnn.ablation.summary import Row, common_seeds

_METRICS = {
    "segm_AP": "mask AP",
    "segm_AP75": "mask AP75",
    "bbox_AP": "box AP",
    "keypoints_AP": "keypoint AP",
}
_STRIDES = ("stride 16", "stride 32")


def claims(table: Table, rows: Sequence[Row]) -> list[str]:
    """A sentence for each claim that the table's cells can speak to: it holds, it does not, or it is not resolved."""
    if not {"align", "pool"} <= table.axes.get("roi_op", {}).keys():
        return []
    places = {(row.axes["roi_op"], _where(row)): row for row in rows}
    settings = list(dict.fromkeys(where for _, where in places))
    found = [line for where in settings for line in _align_beats_pool(places, where)]
    found += _loses_more_at_32(places)
    found += _gains_more_points_at_32(places)
    found += [line for where in settings for line in _most_in_detail(places, where)]
    found += [line for where in settings for line in _warp_is_about_pool(places, where)]
    return found


def _where(row: Row) -> str:
    """What a row's operators are compared at: ``stride 16``."""
    return ", ".join(f"{axis} {value}" for axis, value in row.axes.items() if axis != "roi_op")


def _align_beats_pool(places: dict[tuple[str, str], Row], where: str) -> list[str]:
    if ("align", where) not in places or ("pool", where) not in places:
        return []
    lines = []
    for metric, name in _METRICS.items():
        a, b = _values(places["align", where], places["pool", where], metric)
        if a:
            gain = paired_by_seed(a, b)
            lines.append(f"align − pool > 0 in {name}{_at(where)}: {_verdict(gain)}: {_words(gain)}.")
    return lines


def _loses_more_at_32(places: dict[tuple[str, str], Row]) -> list[str]:
    if not all((operator, where) in places for operator in ("align", "pool") for where in _STRIDES):
        return []
    places = _with_seeds_of_all(places)
    sides = {s: _values(places["align", s], places["pool", s], "segm_AP") for s in _STRIDES}
    if any(not a or 0 in a for a, _ in sides.values()):
        return []
    shares = {s: [(x - y) / x for x, y in zip(a, b, strict=True)] for s, (a, b) in sides.items()}
    means = {s: lost_share(*sides[s]) for s in sides}
    at_16, at_32 = _STRIDES
    more = paired_by_seed(shares[at_32], shares[at_16])
    return [
        f"The share of align's mask AP that pool loses is larger at stride 32 than at 16: {_verdict(more)}: "
        f"{means[at_32].mean:.2f} against {means[at_16].mean:.2f} (paper: 0.24 and 0.11), "
        f"difference {_words(more, 2)}."
    ]


def _gains_more_points_at_32(places: dict[tuple[str, str], Row]) -> list[str]:
    """The paper's own words, more than double the gain: in points, which also need an AP to gain them on."""
    if not all((operator, where) in places for operator in ("align", "pool") for where in _STRIDES):
        return []
    places = _with_seeds_of_all(places)
    lines = []
    for metric, published in (("segm_AP", "+7.3 and +3.4"), ("segm_AP75", "+10.5 and +5.1")):
        at_16, at_32 = (_gains(places, where, metric) for where in _STRIDES)
        if at_16 and len(at_16) == len(at_32):
            lines.append(
                f"align − pool in {_METRICS[metric]} is more points at stride 32 than at 16: "
                f"{_more(at_32, at_16)} (paper: {published})."
            )
    return lines


def _most_in_detail(places: dict[tuple[str, str], Row], where: str) -> list[str]:
    """Most at high IoU and on small objects."""
    if ("align", where) not in places or ("pool", where) not in places:
        return []
    lines = []
    for metric, other, names in (
        ("segm_AP75", "segm_AP50", "mask AP75 than in mask AP50"),
        ("segm_APs", "segm_APm", "mask AP of small than of medium objects (below 32, 96 px)"),
    ):
        first, second = _gains(places, where, metric), _gains(places, where, other)
        if first and len(first) == len(second):
            lines.append(f"align − pool is more in {names}{_at(where)}: {_more(first, second)}.")
    return lines


def _gains(places: dict[tuple[str, str], Row], where: str, metric: str) -> list[float]:
    """Align minus pool, of every seed that both have."""
    a, b = _values(places["align", where], places["pool", where], metric)
    return [x - y for x, y in zip(a, b, strict=True)]


def _more(first: Sequence[float], second: Sequence[float]) -> str:
    more, means = paired_by_seed(first, second), [mean_interval(side).mean for side in (first, second)]
    shown = " against ".join(map(signed, means))
    return f"{_verdict(more)}: {shown}, difference {_words(more)}"


def _warp_is_about_pool(places: dict[tuple[str, str], Row], where: str) -> list[str]:
    if not all((operator, where) in places for operator in ("align", "warp", "pool")):
        return []
    align, warp, pool = (places[operator, where] for operator in ("align", "warp", "pool"))
    gain, gap = _values(align, pool, "segm_AP"), _values(warp, pool, "segm_AP")
    if not gain[0] or not gap[0]:
        return []
    first, second = paired_by_seed(*gain), paired_by_seed(*gap)
    quarter = [(a - b) / 4 for a, b in zip(*gain, strict=True)]
    apart = [a - b for a, b in zip(*gap, strict=True)]
    # |gap| < gain / 4 where the quarter is above both the gap and its negative.
    room = [paired_by_seed(quarter, [sign * x for x in apart]) for sign in (1, -1)]
    verdicts = [_verdict(estimate) for estimate in room]
    said = next(
        (v for v in ("does not hold", "one run, not resolved", "not resolved") if v in verdicts), "holds"
    )
    return [
        f"|warp − pool| is below a quarter of align − pool in mask AP{_at(where)}: {said}: "
        f"warp − pool {_words(second)}, align − pool {_words(first)}."
    ]


def _with_seeds_of_all(places: dict[tuple[str, str], Row]) -> dict[tuple[str, str], Row]:
    """The rows of align and pool, cut to the seeds that all of them have."""
    kept = {key: row for key, row in places.items() if key[0] in ("align", "pool")}
    seeds = set.intersection(*({r["seed"] for r in row.records} for row in kept.values()))
    return {key: Row(row.axes, [r for r in row.records if r["seed"] in seeds]) for key, row in kept.items()}


def _values(row: Row, other: Row, metric: str) -> tuple[list[float], list[float]]:
    first, second = common_seeds(row, other)
    a, b = Row({}, first).values(metric), Row({}, second).values(metric)
    return (a, b) if len(a) == len(b) else ([], [])


def _verdict(estimate: Estimate) -> str:
    if estimate.low is None:
        return "one run, not resolved"
    if not estimate.resolved:
        return "not resolved"
    return "holds" if estimate.mean > 0 else "does not hold"


def _words(estimate: Estimate, digits: int = 1) -> str:
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f" [{signed(estimate.low, digits)}, {signed(estimate.high, digits)}]"
    return f"{signed(estimate.mean, digits)}{interval}"


def _at(where: str) -> str:
    return f" at {where}" if where else ""
