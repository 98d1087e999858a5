"""The report across data sets, from made-up records whose gains are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskrcnn.ablation import record
from maskrcnn.ablation.across import slope, write_across
from maskrcnn.errors import UserError
from tests.ablation.test_report import TABLES, made_up


def stored(
    root: Path, data: str, seeds: int, shift: float = 0.0, kinds: tuple[str, ...] = ("segm", "bbox")
) -> None:
    """Records of a strides table whose pool has ``shift`` points more than in `made_up`."""
    for stride in ("16", "32"):
        for operator in ("align", "warp", "pool"):
            for seed in range(seeds):
                found: dict[str, Any] = made_up(stride, operator, seed)
                for kind in ("segm", "bbox"):
                    if kind not in kinds:
                        del found["metrics"][kind], found["by_iou"][kind], found["by_size"][kind]
                    elif operator == "pool":
                        found["metrics"][kind]["AP"] += shift
                        found["by_size"][kind] = [v and v + shift for v in found["by_size"][kind]]
                record.write(root / f"strides-{data}", found)


def test_gains_shares_and_intervals_of_every_data_set(tmp_path: Path) -> None:
    stored(tmp_path, "shapes", 3)
    stored(tmp_path, "nuclei", 1, shift=-2)
    stored(tmp_path, "voc", 2, kinds=("bbox",))
    written = write_across([TABLES], tmp_path / "across")
    assert {p.name for p in written} == {"across.csv", "report.md", "report.html", "report.tex"}
    with (tmp_path / "across" / "across.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = "data,stride,metric,align,pool,warp,gain,low,high,share,median_cells"
    assert ",".join(rows[0]) == columns
    found = {(r["data"], r["stride"], r["metric"]): r for r in rows}
    assert {m for d, _, m in found if d == "voc"} == {"bbox_AP", "bbox_AP50", "bbox_AP75"}
    assert {m for d, _, m in found if d == "shapes"} >= {"segm_AP", "segm_AP50", "segm_AP75"}
    own = found["shapes", "16", "segm_AP"]
    assert [float(own[k]) for k in ("align", "pool", "warp", "gain")] == pytest.approx([31.1, 27, 27.5, 4.1])
    half = 4.303 * 0.1 / 3**0.5
    assert float(own["low"]) == pytest.approx(4.1 - half, abs=2e-3)
    assert float(own["high"]) == pytest.approx(4.1 + half, abs=2e-3)
    assert float(own["share"]) == pytest.approx(4.1 / 31.1, abs=1e-4)
    single = found["nuclei", "32", "segm_AP"]
    assert (float(single["gain"]), single["low"], single["high"]) == (10.0, "", "")
    text = (tmp_path / "across" / "report.md").read_text()
    assert "6 of 6 comparisons" in text
    assert "excludes 0 in 4 of them" in text  # one seed of nuclei resolves nothing
    assert "| voc | 32 | box AP |" in text


def test_the_share_of_an_ap_near_zero_is_left_out(tmp_path: Path) -> None:
    stored(tmp_path, "shapes", 2)
    counts = []
    for ap in (1.0, 0.9):  # align's AP in one range of sizes
        for path in (tmp_path / "strides-shapes" / "records").glob("*-align-*.json"):
            found = json.loads(path.read_text())
            found["by_size"]["segm"][1] = ap
            path.write_text(json.dumps(found))
        write_across([TABLES], tmp_path / "across")
        lines = (tmp_path / "across" / "report.md").read_text().splitlines()
        cells = [line.split(" | ") for line in lines if line.startswith("| mask | pool |")]
        counts.append({line[2]: int(line[3]) for line in cells})
    before, after = counts
    assert before["points"] == before["% of align's AP"] == after["points"]
    assert after["% of align's AP"] == before["% of align's AP"] - 2  # one range at each stride


def test_the_median_object_is_measured_in_cells(tmp_path: Path) -> None:
    """Of a record with the median, and of an older one from its counts: 9 of 79 objects below 16 px, then tens."""
    stored(tmp_path, "shapes", 1)
    write_across([TABLES], tmp_path / "across")
    frame = pd.read_csv(tmp_path / "across" / "across.csv")
    # Half of 79 objects is 39.5: 9 + 10 + 10 + 10 lie below 40 px, and 0.5 of the ten between 40 and 48.
    assert list(frame[frame.stride == 16].median_cells) == pytest.approx([40.4 / 16] * 6, abs=1e-4)
    for path in (tmp_path / "strides-shapes" / "records").glob("*.json"):
        path.write_text(path.read_text().replace('"by_size":{', '"by_size":{"median":24.0,'))
    write_across([TABLES], tmp_path / "across")
    frame = pd.read_csv(tmp_path / "across" / "across.csv")
    assert set(frame[frame.stride == 16].median_cells) == {1.5}
    assert set(frame[frame.stride == 32].median_cells) == {0.75}


def test_a_line_is_found_with_the_interval_of_the_textbook() -> None:
    """Against scipy's regression; two groups of other levels have the slope of each within them."""
    from scipy.stats import linregress

    rng = np.random.default_rng(0)
    cells = 2.0 ** np.arange(8)
    gain = 3 - 2 * np.log2(cells) + rng.normal(0, 0.5, 8)
    frame = pd.DataFrame({"data": "a", "stride": "16", "cells": cells, "gain": gain})
    found, known = slope(frame, "gain", within=False), linregress(np.log2(cells), gain)
    assert found.mean == pytest.approx(known.slope)
    assert found.half == pytest.approx(2.447 * known.stderr, rel=1e-3)  # t(0.975, 6)
    assert found.resolved
    other = frame.assign(data="b", gain=gain + 40, cells=cells * 64)
    both = pd.concat([frame, other])
    assert slope(both, "gain", within=True).mean == pytest.approx(known.slope)
    assert slope(both, "gain", within=False).mean > 0
    assert slope(both, "gain", within=True, scale=100).mean == pytest.approx(100 * known.slope)


def test_without_records_it_says_what_to_train(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="strides-<data>"):
        write_across([TABLES], tmp_path / "across")
