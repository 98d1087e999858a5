"""The explorer's numbers are those of maskrcnn_ops: 200 random boxes and settings in a real browser."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maskrcnn_ops import RoIOp
from maskrcnn_ops.geometry import points_of

from maskrcnn.ablation.explorer import channel_maps, explorer_page
from tests.ablation.explorer_page import READ, SIDE, expected, noise_maps, open_page, photograph

OPERATORS = ["align", "align_legacy", "warp", "warp_mnc", "pool", "ps_align", "ps_pool", "ps_warp"]
SET_AND_READ = f"""
(cases) => JSON.stringify(cases.map((c) => {{
  const known = JSON.parse(document.getElementById("data").textContent).operators[c.operator];
  const panel = {{ operator: c.operator, switches: {{ ...known, ...c.switches }} }};
  Explorer.set({{ box: c.box, stride: c.stride, bins: c.bins, map: c.map, moved: c.moved, panels: [panel, panel] }});
  return ({READ})(0);
}}))
"""


def random_cases(count: int) -> list[dict[str, Any]]:
    """Operators as they are and with switches at random; boxes inside the map and across its borders."""
    rng = np.random.default_rng(2)
    choices: dict[str, list[Any]] = {
        "box_rounding": ["none", "round", "pixel"],
        "plus_one": [False, True],
        "offset": [0, 0.5, *np.round(rng.uniform(-1, 1, 8), 3).tolist()],
        "min_width": [None, 0, 0.1, 1],
        "bin_rounding": [False, True],
        "sampling_ratio": [0, 1, 2, 3, 4],
        "sample_position": ["centre", "corner", "thirds"],
        "border": ["align", "mnc", "inner"],
        "reduction": ["avg", "max"],
    }
    cases = []
    for k in range(count):
        operator = OPERATORS[k % len(OPERATORS)]
        plain = not operator.startswith("ps_")
        names = [name for name in choices if rng.random() < 0.5 and (plain or name != "reduction")]
        changed = names if k % 3 else []
        stride = int(rng.choice([4, 8, 16, 32] if plain else [16, 32]))
        cases.append(
            {
                "operator": operator,
                "switches": {name: choices[name][rng.integers(len(choices[name]))] for name in changed},
                "box": random_box(rng, stride, at_border=k % 5 < 3, ties=k % 2 == 1),
                "stride": stride,
                "bins": int(rng.integers(1, 9)),
                "map": str(rng.choice(["brightness", "ramp", "noise", "noise"])),
                "moved": int(rng.choice([0, 0, 4, 8])),
            }
        )
    return cases


def border_cases() -> list[dict[str, Any]]:
    """One sample in each corner of the map, 0.02 cells within or beyond the place where samples become 0."""
    one_sample = {"sampling_ratio": 1, "sample_position": "corner", "offset": 0}
    return [
        {
            "operator": "align",
            "switches": one_sample | {"border": border},
            "box": [16 * near, 16 * far, 16 * near + 8, 16 * far + 8],
            "stride": 16,
            "bins": 1,
            "map": "brightness",
            "moved": 0,
        }
        for border, margin in (("align", 1.0), ("mnc", 0.5), ("inner", 0.0))
        for beyond in (-0.02, 0.02)
        for near, far in [(-margin - beyond, SIDE / 16 - 1 + margin + beyond)]
    ]


def random_box(rng: np.random.Generator, stride: int, at_border: bool, ties: bool) -> list[float]:
    """A box inside the picture, or one with an edge of each axis near the border, on either side of it."""
    low, high = np.sort(rng.uniform(0, SIDE, (2, 2)), axis=0)
    if at_border:
        near = rng.uniform(-1.5, 1.5, 2) * stride
        first = rng.random(2) < 0.5
        low, high = np.where(first, near, low), np.where(first, high, SIDE + near)
    high = np.maximum(high, low + 1)
    box = np.array([*low, *high], np.float32)
    edges: list[float] = (np.round(box * 2) / 2 if ties else box).tolist()
    return edges


def assert_points(
    read: list[dict[str, Any]], low: float, high: float, size: int, all_: dict[str, Any]
) -> None:
    """Every point of an axis equals that of maskrcnn_ops, bit by bit."""
    edges = [torch.tensor([edge], dtype=torch.float32) for edge in (low, high)]
    points = points_of(*edges, all_["scale"], all_["bins"], size, RoIOp(**all_["switches"]))
    for p, bin_ in enumerate(read):
        used = points.used[0, p]
        inside = np.array([point for point in bin_["points"] if point[1]]).reshape(-1, 5)
        assert inside[:, 2].tolist() == points.low[0, p][used].tolist()
        assert inside[:, 4].tolist() == points.high_weight[0, p][used].tolist()
        weighted = inside[:, 4] > 0
        assert inside[weighted, 3].tolist() == points.high[0, p][used][torch.from_numpy(weighted)].tolist()
        if all_["switches"]["bin_rounding"]:
            continue
        assert bool(points.outside[0, p]) == (len(inside) < len(bin_["points"]))
        # Places of samples, from the operators' own first sample and bin size where the map does not clamp them.
        free = (inside[:, 0] > 0) & (inside[:, 0] < size - 1)
        at = points.low[0, p][used] + points.high_weight[0, p][used]
        assert inside[free, 0] == pytest.approx(at[torch.from_numpy(free)].numpy(), abs=1e-5)


def assert_equals_the_operators(case: dict[str, Any], read: dict[str, Any]) -> None:
    operator, (_, height, width) = RoIOp(**read["switches"]), read["size"]
    assert operator == dataclasses.replace(RoIOp.preset(case["operator"]), **case["switches"])
    np.testing.assert_allclose(read["pooled"], expected(read), atol=1e-5, rtol=1e-5, err_msg=str(case))
    x1, y1, x2, y2 = read["box"]
    assert_points(read["x"], x1, x2, width, read)
    assert_points(read["y"], y1, y2, height, read)


def test_200_random_boxes_and_switches_read_and_pool_as_the_operators_do(
    browser: Any, tmp_path: Path, errors: list[str]
) -> None:
    noise = noise_maps()
    page = open_page(browser, explorer_page(picture=photograph(), maps=noise), tmp_path, errors)
    cases = random_cases(200) + border_cases()
    found = json.loads(page.evaluate(SET_AND_READ, cases))  # many times as fast as handing over objects
    for case, read in zip(cases, found, strict=True):
        assert_equals_the_operators(case, read)
        if case["map"] == "noise" and not read["switches"]["position_sensitive"]:
            given = next(maps.values for maps in noise if maps.stride == case["stride"])
            assert read["map"] == given[case["moved"] // 4].ravel().tolist()
    assert not errors


def test_the_page_is_one_small_file() -> None:
    html = explorer_page()
    assert len(html.encode()) < 400_000
    assert "http" not in html.replace("http://www.w3.org", "")
    assert "{{" not in html


def test_a_networks_channel_is_the_one_that_varies_most() -> None:
    """Features that are the shift in their first channel, and ten times a ramp in their second."""

    def features(shift: int) -> dict[int, torch.Tensor]:
        ramp = torch.arange(8.0).expand(8, 8)
        return {s: torch.stack([torch.full((8, 8), float(shift)), 10 * ramp + shift])[None] for s in (16, 64)}

    (found,) = channel_maps("net", features, (96, 80))
    assert (found.name, found.stride, found.values.shape) == ("net", 16, (5, 6, 6))
    assert found.values[:, 0, 0].tolist() == [0, 4, 8, 12, 16]
    assert found.values[0, 2].tolist() == [0, 10, 20, 30, 40, 50]
