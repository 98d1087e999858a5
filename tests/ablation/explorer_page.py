"""The explorer opened in a browser, what it shows as numbers, and what maskrcnn_ops makes of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from maskrcnn_ops import RoIOp

from maskrcnn.ablation.explorer import ChannelMaps

SIDE = 400  # pixels of the pictures
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


def expected(read: dict[str, Any]) -> torch.Tensor:
    """The pooled values [P, P] by the operator of maskrcnn_ops with the page's switches, in float32."""
    feature = torch.tensor(read["map"], dtype=torch.float32).reshape(1, *read["size"])
    box, valid = torch.tensor([[read["box"]]], dtype=torch.float32), torch.ones(1, 1, dtype=torch.bool)
    return RoIOp(**read["switches"])({1 / read["scale"]: feature}, box, valid, read["bins"])[0, 0]


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
