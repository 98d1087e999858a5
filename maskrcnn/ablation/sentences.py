"""The result of a table in at most three sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.statistics import show, show_interval, signed
from maskrcnn.ablation.summary import Difference, Row, differences, kinds_of, name_of, place_name

_MANY = 4  # with more compared values, the differences are summarised


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
        known,
        lambda d: f"{show(d.share, scale=100, digits=0, unit=' %')}{of if d is known[0] else ''}{d.at}",
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
