"""The explorer in a real browser: its numbers are the operators' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from maskrcnn_ops import RoIOp, axis_reading
from maskrcnn_ops.geometry import points_of

from maskrcnn.ablation.explorer import ChannelMaps, Start, channel_maps, explorer_page

sync_api = pytest.importorskip("playwright.sync_api", reason="the explorer is tested through playwright")
CHROMIUM = Path("/usr/bin/chromium")
SIDE = 400  # pixels of the pictures
OPERATORS = ["align", "align_legacy", "warp", "warp_mnc", "pool", "ps_align", "ps_pool", "ps_warp"]
# What a panel shows, as numbers: of each axis and bin the points [x, inside, low, high, weight].
READ = """
(index) => {
  const s = Explorer.seen(index);
  const axis = (a) => a.bins.map((bin) => ({
    low: bin.low, high: bin.high, points: bin.points.map((p) => [p.x, +p.inside, p.low, p.high, p.weight]) }));
  const channels = s.switches.position_sensitive ? s.bins ** 2 : 1;
  const cells = s.map.height * s.map.width;
  return {
    size: [channels, s.map.height, s.map.width], box: s.box, scale: s.scale, bins: s.bins, switches: s.switches,
    map: Array.from({ length: channels * cells }, (_, k) =>
      s.map.at(Math.floor(k / cells), Math.floor(k % cells / s.map.width), k % s.map.width)),
    pooled: s.reading.pooled.map((row) => row.map((bin) => bin.value)), x: axis(s.reading.x), y: axis(s.reading.y),
    areas: s.areas, shift: s.shift, region: [s.reading.extentX, s.reading.extentY],
  };
}
"""
SET_AND_READ = f"""
(cases) => JSON.stringify(cases.map((c) => {{
  const known = JSON.parse(document.getElementById("data").textContent).operators[c.operator];
  const panel = {{ operator: c.operator, switches: {{ ...known, ...c.switches }} }};
  Explorer.set({{ box: c.box, stride: c.stride, bins: c.bins, map: c.map, moved: c.moved, panels: [panel, panel] }});
  return ({READ})(0);
}}))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"the explorer is tested in a browser, and there is no {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def errors() -> list[str]:
    return []


def open_page(browser: Any, html: str, folder: Path, errors: list[str], **options: Any) -> Any:
    """The page, once it has drawn; what goes wrong in it and what it asks the network for ends up in ``errors``."""
    path = folder / "explorer.html"
    path.write_text(html, "utf-8")
    page = browser.new_context(viewport={"width": 1200, "height": 1000}, **options).new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: errors.append(request.url) if "http" in request.url[:5] else None)
    page.goto(path.as_uri())
    page.evaluate("Explorer.started")
    drawn(page)
    return page


def drawn(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def family(switches: dict[str, Any]) -> RoIOp:
    """The operator of maskrcnn_ops with the page's switches."""
    own = {k: v for k, v in switches.items() if k not in ("offset", "position_sensitive")}
    return RoIOp(half_pixel=switches["offset"] == 0.5, **own)


def expected(read: dict[str, Any]) -> torch.Tensor:
    """The pooled values [P, P] in float32, by maskrcnn_ops, or by torchvision for its position-sensitive operators."""
    feature = torch.tensor(read["map"], dtype=torch.float32).reshape(1, *read["size"])
    bins, switches, stride = read["bins"], read["switches"], 1 / read["scale"]
    if switches["border"] == "inner":
        assert stride == int(stride)
        box = torch.tensor([[0.0, *read["box"]]], dtype=torch.float32)
        return torchvision.ops.ps_roi_pool(feature, box, bins, 1 / stride)[0, 0]
    box, valid = torch.tensor([[read["box"]]], dtype=torch.float32), torch.ones(1, 1, dtype=torch.bool)
    pooled = family(switches)({int(stride): feature}, box, valid, bins)[0]
    if not switches["position_sensitive"]:
        return pooled[0]
    place = torch.arange(bins)
    return pooled.reshape(bins, bins, bins, bins)[place[:, None], place, place[:, None], place]


def random_cases(count: int) -> list[dict[str, Any]]:
    """Operators as they are and with switches at random; boxes inside the map and across its borders."""
    rng = np.random.default_rng(2)
    choices: dict[str, list[Any]] = {
        "box_rounding": ["none", "round"],
        "plus_one": [False, True],
        "offset": [0, 0.5],
        "min_width": [None, 0, 1],
        "bin_rounding": [False, True],
        "sampling_ratio": [0, 1, 2, 3, 4],
        "sample_position": ["centre", "corner", "thirds"],
        "border": ["align", "mnc"],
        "reduction": ["avg", "max"],
    }
    cases = []
    for k in range(count):
        operator = OPERATORS[k % len(OPERATORS)]
        plain = not operator.startswith("ps_")
        names = [name for name in choices if rng.random() < 0.5 and (plain or name != "reduction")]
        changed = names if k % 3 and operator != "ps_pool" else []
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


def noise_maps() -> list[ChannelMaps]:
    """Values of both signs, as many as a network has that pools a picture of SIDE x SIDE."""
    rng = np.random.default_rng(1)
    sizes = [(stride, -(-SIDE // stride)) for stride in (4, 8, 16, 32)]
    return [
        ChannelMaps("noise", stride, rng.normal(-1.5, 1, (5, cells, cells + 1)).astype(np.float16))
        for stride, cells in sizes
    ]


def photograph() -> Any:
    """Something with edges, ``[SIDE, SIDE, 3]`` uint8."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([x * 255 // SIDE, y * 255 // SIDE, 255 * ((x // 37 + y // 53) % 2)], 2).astype(np.uint8)


def assert_points(
    read: list[dict[str, Any]], low: float, high: float, size: int, all_: dict[str, Any]
) -> None:
    """Every point of an axis equals that of maskrcnn_ops, bit by bit."""
    edges = [torch.tensor([edge], dtype=torch.float32) for edge in (low, high)]
    points = points_of(*edges, all_["scale"], all_["bins"], size, family(all_["switches"]))
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
    pooled, values = np.array(read["pooled"]), expected(read).numpy()
    np.testing.assert_allclose(pooled, values, atol=1e-5, rtol=1e-5, err_msg=str(case))
    if read["switches"]["border"] != "inner":
        _, height, width = read["size"]
        x1, y1, x2, y2 = read["box"]
        assert_points(read["x"], x1, x2, width, read)
        assert_points(read["y"], y1, y2, height, read)


def test_200_random_boxes_and_switches_read_and_pool_as_the_operators_do(
    browser: Any, tmp_path: Path, errors: list[str]
) -> None:
    noise = noise_maps()
    page = open_page(browser, explorer_page(picture=photograph(), maps=noise), tmp_path, errors)
    cases = random_cases(200)
    found = json.loads(page.evaluate(SET_AND_READ, cases))  # many times as fast as handing over objects
    for case, read in zip(cases, found, strict=True):
        assert_equals_the_operators(case, read)
        if case["map"] == "noise" and not read["switches"]["position_sensitive"]:
            given = next(maps.values for maps in noise if maps.stride == case["stride"])
            assert read["map"] == given[case["moved"] // 4].ravel().tolist()
    assert not errors


def shown_box(page: Any) -> list[float]:
    return [float(page.input_value(f"#{edge}")) for edge in ("x1", "y1", "x2", "y2")]


def panel(page: Any, index: int) -> Any:
    return page.locator(".panel").nth(index)


def fact(page: Any, index: int, name: str) -> str:
    return str(panel(page, index).locator(f"[data-fact={name}]").inner_text()).replace("−", "-")


def assert_heat(page: Any, index: int) -> None:
    """The pooled numbers on the screen are those of the operator for the box in the inputs."""
    drawn(page)
    read = page.evaluate(READ, index)
    assert read["box"] == shown_box(page)
    texts = panel(page, index).locator(".heat span").all_inner_texts()
    shown = np.array([float(text.replace("−", "-")) for text in texts])
    values = expected(read).numpy().ravel()
    assert np.abs(shown - values) == pytest.approx(0, abs=0.0501 if values.max() >= 100 else 0.00501)


def test_mouse_and_keyboard_move_the_box_and_the_numbers_follow(
    browser: Any, tmp_path: Path, errors: list[str]
) -> None:
    page = open_page(browser, explorer_page(), tmp_path, errors)
    assert shown_box(page) == [75, 118, 305, 303]
    assert_heat(page, 0)
    assert_heat(page, 1)

    corner = panel(page, 0).locator("[data-corner='2'] .grip").bounding_box()
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    per_pixel = panel(page, 0).locator("canvas").bounding_box()["width"] / (
        13 * 32
    )  # the map has 13 cells a side
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y + 5)
    page.mouse.move(x - 61 * per_pixel, y + 40 * per_pixel, steps=4)
    page.mouse.up()
    drawn(page)
    assert shown_box(page) == [75, 118, 244, 343]
    assert_heat(page, 0)
    assert_heat(page, 1)

    box = panel(page, 1).locator("rect.box-line")
    box.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowDown", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    drawn(page)
    assert shown_box(page) == [77, 117, 245, 343]
    panel(page, 1).locator("[data-corner='1']").focus()
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    drawn(page)
    assert shown_box(page) == [77, 115, 244, 343]
    assert_heat(page, 1)

    x_read = axis_reading(77, 244, 32, 3, 13, RoIOp.preset("pool"))
    assert fact(page, 1, "region-x") == f"{x_read.region[0]:.2f} to {x_read.region[1]:.2f}"
    overlap = (min(244 / 32, 9) - max(77 / 32, 2)) * (min(343 / 32, 12) - 4)
    own = (244 - 77) * (343 - 115) / 32**2
    assert fact(page, 1, "lost") == f"{100 * (1 - overlap / own):.1f} %"
    assert fact(page, 1, "gained") == f"{100 * (7 * 8 - overlap) / own:.1f} %"
    assert not errors


def test_controls_set_operators_switches_and_map(browser: Any, tmp_path: Path, errors: list[str]) -> None:
    page = open_page(browser, explorer_page(), tmp_path, errors)
    page.select_option("[aria-label='Second operator']", "warp")
    page.select_option("#stride", "16")
    page.fill("#bins", "5")
    page.keyboard.press("Enter")
    page.select_option("#map", "ramp")
    second = panel(page, 1)
    second.locator("summary").click()
    second.locator("[data-switch=sampling_ratio]").fill("3")
    second.locator("[data-switch=plus_one]").uncheck()
    second.locator("[data-switch=reduction]").select_option("max")
    page.fill("#x1", "90")
    page.keyboard.press("Tab")
    assert_heat(page, 0)
    assert_heat(page, 1)
    read = page.evaluate(READ, 1)
    assert {name: read["switches"][name] for name in ("sampling_ratio", "plus_one", "reduction")} == {
        "sampling_ratio": 3,
        "plus_one": False,
        "reduction": "max",
    }
    assert (read["box"], read["scale"], read["bins"]) == ([90, 118, 305, 303], 1 / 16, 5)
    # On whole cells nothing is rounded: the region's centre is off by 0, 0.5 and 1 cell.
    page.evaluate("Explorer.set({ box: [64, 64, 128, 128], stride: 16, bins: 4 })")
    for name, cells in [("align", 0.0), ("align_legacy", 0.5), ("warp", 1.0)]:
        page.select_option("[aria-label='First operator']", name)
        drawn(page)
        shift = [float(part) for part in fact(page, 0, "shift").split(", ")]
        assert shift == [16 * cells, 16 * cells]
    assert not errors


def test_what_a_sample_reads_is_shown_for_the_pointer_and_the_buttons(
    browser: Any, tmp_path: Path, errors: list[str]
) -> None:
    page = open_page(browser, explorer_page(), tmp_path, errors)
    points = panel(page, 0).locator("circle.point")
    assert points.count() == 3 * 3 * 4
    target = points.nth(19).bounding_box()  # bin (1, 1), sample (1, 1)
    page.mouse.move(target["x"] + 3, target["y"] + 3)
    drawn(page)
    assert "Bin (1, 1), sample (1, 1)" in panel(page, 0).inner_text()
    panel(page, 0).locator("[aria-label='Previous sample']").click()
    page.mouse.move(0, 0)
    drawn(page)
    assert "Bin (1, 1), sample (1, 0)" in panel(page, 0).inner_text()
    read = page.evaluate(READ, 0)
    values = torch.tensor(read["map"]).reshape(1, *read["size"])
    x, y = (points_at(read, axis, 1) for axis in "xy")
    weights = np.outer([1 - y[1][4], y[1][4]], [1 - x[0][4], x[0][4]]).ravel()
    rows = panel(page, 0).locator(".sample table tr").all_inner_texts()[1:5]
    assert [float(row.split("\t")[1]) for row in rows] == pytest.approx(weights, abs=0.00051)
    grid = torch.tensor([[[[2 * x[0][0] / 12 - 1, 2 * y[1][0] / 12 - 1]]]])
    sample = torch.nn.functional.grid_sample(values.float(), grid.float(), align_corners=True)
    assert float(fact(page, 0, "sample-value")) == pytest.approx(sample.item(), abs=0.00051)
    assert not errors


def points_at(read: dict[str, Any], axis: str, bin_: int) -> list[list[float]]:
    points: list[list[float]] = read[axis][bin_]["points"]
    return points


def steps_of(page: Any, name: str) -> list[str]:
    """The sentences of a worked example, one a step."""
    page.click(f"text={name}")
    drawn(page)
    texts = [page.inner_text("#step")]
    while page.is_enabled("#next-step"):
        page.click("#next-step")
        drawn(page)
        texts.append(page.inner_text("#step"))
    return texts


def test_the_articles_examples_are_walked_with_their_numbers(
    browser: Any, tmp_path: Path, errors: list[str]
) -> None:
    page = open_page(browser, explorer_page(), tmp_path, errors)
    ramp = (torch.arange(8.0) + 10 * torch.arange(8.0)[:, None])[None, None]

    texts = steps_of(page, "665 px")
    for step, numbers in enumerate(
        [["20.78"], ["22", "20"], ["3.14", "2.86"], ["704", "25"], ["2.97"], ["0.74"]]
    ):
        assert all(number in texts[step] for number in numbers), texts[step]
    assert "0–3, 3–6, 6–9, 9–12, 12–15, 15–18 and 18–21" in texts[2]

    texts = steps_of(page, "200 × 145 px")
    for step, numbers in enumerate(
        [["9.25", "6.00", "6.25", "4.53"], ["2.08", "1.51"], ["9.94", "10.64", "6.50", "7.01"]]
    ):
        assert all(number in texts[step] for number in numbers), texts[step]
    assert "8 × 6 cells" in texts[-1]

    texts = steps_of(page, "7 × 5 cells")
    largest = [x - 0.5 + 10 * (y - 0.5) for y in (1.875, 4.375) for x in (2.625, 6.125)]
    middle = [x - 0.5 + 10 * (y - 0.5) for y in (1.25, 3.75) for x in (1.75, 5.25)]
    assert all(f"{value:.3f}" in texts[3] for value in largest), texts[3]
    assert all(f"{value:.3f}" in texts[4] for value in middle), texts[4]

    texts = steps_of(page, "8 × 8 map")
    roi_align = torchvision.ops.RoIAlign(2, 5, 2)
    values = roi_align(ramp, torch.tensor([[0, 0, 0.375, 0.875, 0.625]])).ravel().tolist()
    assert all(f"{value:.3f}" in texts[4] for value in values), texts[4]

    page.select_option("#stride", "8")
    drawn(page)
    assert "You changed the example" in page.inner_text("#step")
    page.click("text=Your own box")
    drawn(page)
    assert not page.is_visible("#walk")
    assert shown_box(page) == [75, 118, 305, 303]
    assert not errors


def test_moving_image_and_box_changes_pool_more_than_align(
    browser: Any, tmp_path: Path, errors: list[str]
) -> None:
    page = open_page(browser, explorer_page(), tmp_path, errors)
    still = [page.evaluate(READ, index) for index in (0, 1)]
    page.focus("#moved")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    drawn(page)
    assert page.inner_text("#moved-text") == "0.31 cells, 10.00 pixels"
    shown = []
    for index in (0, 1):
        moved = page.evaluate(READ, index)
        assert moved["box"] == [85, 118, 315, 303]
        difference = (expected(moved) - expected(still[index])).square().mean().sqrt()
        percent = 100 * difference / (max(still[index]["map"]) - min(still[index]["map"]))
        shown.append(float(page.inner_text(f"[data-change='{index}']").removesuffix(" %")))
        assert shown[index] == pytest.approx(float(percent), abs=0.051)
    assert shown[0] < shown[1] / 2
    for index in (0, 1):
        assert page.evaluate(f"Explorer.curve({index})[16]") == pytest.approx(0, abs=1e-4)
    assert not errors


def test_a_phone_has_room_for_everything_and_touch_selects_and_drags(
    browser: Any, tmp_path: Path, errors: list[str]
) -> None:
    page = open_page(browser, explorer_page(), tmp_path, errors, has_touch=True)
    page.set_viewport_size({"width": 400, "height": 800})
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    point = panel(page, 0).locator("circle.point").nth(35)
    point.scroll_into_view_if_needed()
    place = point.bounding_box()
    page.touchscreen.tap(place["x"] + 3, place["y"] + 3)
    drawn(page)
    assert "Bin (2, 2), sample (1, 1)" in panel(page, 0).inner_text()
    grip = panel(page, 0).locator("[data-corner='0'] .grip").bounding_box()
    drag_by_touch(page, grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2, 30)
    x1, y1, x2, y2 = shown_box(page)
    per_pixel = panel(page, 0).locator("canvas").bounding_box()["width"] / (13 * 32)
    assert (x1 - 75, y1 - 118) == pytest.approx((30 / per_pixel, 30 / per_pixel), abs=0.51)
    assert (x2, y2) == (305, 303)
    assert not errors


def drag_by_touch(page: Any, x: float, y: float, by: float) -> None:
    session = page.context.new_cdp_session(page)
    for kind, at in [("touchStart", 0.0), ("touchMove", by / 2), ("touchMove", by), ("touchEnd", None)]:
        points = [] if at is None else [{"x": x + at, "y": y + at}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    drawn(page)


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


def test_a_network_opens_at_a_stride_that_it_has(browser: Any, tmp_path: Path, errors: list[str]) -> None:
    maps = [maps for maps in noise_maps() if maps.stride in (8, 16)]
    start = Start(box=(10, 20, 110, 190), stride=32, operators={"warp": RoIOp.preset("warp")})
    page = open_page(browser, explorer_page(start, photograph(), maps), tmp_path, errors)
    assert page.locator("#stride option").all_inner_texts() == ["8", "16"]
    assert page.input_value("#map") == "noise"
    assert page.input_value("#stride") == "16"
    assert page.get_attribute("#moved", "step") == "4"
    assert_heat(page, 0)
    page.select_option("#map", "brightness")
    drawn(page)
    assert page.locator("#stride option").all_inner_texts() == ["4", "8", "16", "32"]
    assert not errors
