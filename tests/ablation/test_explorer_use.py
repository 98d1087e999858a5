"""The explorer used with the mouse, the keyboard and touch in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from maskrcnn_ops import RoIOp, axis_reading

from maskrcnn.ablation.explorer import Start, explorer_page
from tests.ablation.explorer_page import READ, drawn, expected, noise_maps, open_page, photograph


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
    page.evaluate("Explorer.set({})")  # a redraw does not take back what is being typed
    drawn(page)
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
    x, y = (read[axis][1]["points"] for axis in "xy")
    weights = np.outer([1 - y[1][4], y[1][4]], [1 - x[0][4], x[0][4]]).ravel()
    rows = panel(page, 0).locator(".sample table tr").all_inner_texts()[1:5]
    assert [float(row.split("\t")[1]) for row in rows] == pytest.approx(weights, abs=0.00051)
    grid = torch.tensor([[[[2 * x[0][0] / 12 - 1, 2 * y[1][0] / 12 - 1]]]])
    sample = torch.nn.functional.grid_sample(values.float(), grid.float(), align_corners=True)
    assert float(fact(page, 0, "sample-value")) == pytest.approx(sample.item(), abs=0.00051)
    assert not errors


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


@pytest.mark.slow
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
