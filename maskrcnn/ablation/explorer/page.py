"""The explorer: one html file, without network access, to try what RoI operators read of a box."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from maskrcnn_ops import Switches
from maskrcnn_ops.switches import PRESETS

from maskrcnn.ablation.explorer.channels import ChannelMaps
from maskrcnn.data.images import Pixels

# Each of these needs only what stands before it.
SCRIPTS = ("geometry.js", "picture.js", "examples.js", "draw.js", "panel.js", "pointer.js", "explorer.js")
# The colours of the report's plots, and further ones for the operators that these do not show.
COLOURS = {
    "align": "#1b7837",
    "align_legacy": "#5aae61",
    "warp": "#e08214",
    "warp_mnc": "#8c510a",
    "pool": "#b2182b",
    "ps_align": "#01807a",
    "ps_pool": "#c51b7d",
    "ps_warp": "#7b3294",
}
_OTHER_COLOUR = "#66717d"
_LONGEST_SIDE = 800  # pixels of the picture in the page


@dataclass(frozen=True)
class Start:
    """What the page shows when it opens.

    Args:
        box: x1, y1, x2, y2 in pixels of the network input.
        size: height and width of the generated picture; a picture of one's own has its own.
        stride: pixels per cell of the feature map: 4, 8, 16 or 32.
        output_size: P, 1 to 14.
        operators: switches by name, in place of the presets of the same name; the first two are compared.
    """

    box: tuple[float, float, float, float] = (75.0, 118.0, 305.0, 303.0)
    size: tuple[int, int] = (400, 400)
    stride: int = 32
    output_size: int = 3
    operators: Mapping[str, Switches] = field(default_factory=dict)


def explorer_page(
    start: Start | None = None, picture: Pixels | None = None, maps: Sequence[ChannelMaps] = ()
) -> str:
    """The page as html.

    Args:
        start: box, map and operators that the page opens with.
        picture: ``[H, W, 3]`` uint8 RGB; None: a generated one.
        maps: channels of networks' features for ``picture``; the first one is shown.
    """
    start = start or Start()
    data = {
        "operators": {**_presets(), **{name: _switches(op) for name, op in start.operators.items()}},
        "colours": COLOURS | {name: _OTHER_COLOUR for name in start.operators if name not in COLOURS},
        "picture": None if picture is None else _picture(picture),
        "maps": [channel.packed() for channel in maps],
        "start": _start(start, picture, maps),
    }
    folder = files(__package__)
    parts = {
        "css": folder.joinpath("explorer.css").read_text("utf-8"),
        "data": json.dumps(data).replace("</", "<\\/"),
        "scripts": "\n".join(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS),
    }
    html = folder.joinpath("template.html").read_text("utf-8")
    for name, text in parts.items():
        html = html.replace("{{ " + name + " }}", text)
    return html


def _start(start: Start, picture: Pixels | None, maps: Sequence[ChannelMaps]) -> dict[str, Any]:
    height, width = start.size if picture is None else picture.shape[:2]
    strides = [channel.stride for channel in maps if channel.name == maps[0].name]
    compared = [*start.operators, *(name for name in ("align", "pool") if name not in start.operators)]
    return {
        "box": start.box,
        "height": height,
        "width": width,
        "stride": start.stride if not strides or start.stride in strides else strides[-1],
        "bins": start.output_size,
        "operators": compared[:2],
    }


def _presets() -> dict[str, dict[str, Any]]:
    family = {name: _switches(PRESETS[name]) for name in COLOURS if name in PRESETS}
    return family | {name: switches for name, switches in _POSITION_SENSITIVE.items() if name not in family}


def _switches(operator: Switches) -> dict[str, Any]:
    """The switches that the page's script knows."""
    known = asdict(operator)
    known["offset"] = 0.5 if known.pop("half_pixel") else 0.0
    names = ("canonical_size", "canonical_level")
    extra = {"position_sensitive": False, "skip_last_cell": False}
    return extra | {name: value for name, value in known.items() if name not in names}


_POSITION_SENSITIVE: dict[str, dict[str, Any]] = {
    "ps_align": _switches(PRESETS["align"]) | {"position_sensitive": True},
    "ps_pool": _switches(PRESETS["pool"])
    | {"plus_one": False, "reduction": "avg", "position_sensitive": True, "skip_last_cell": True},
    "ps_warp": _switches(PRESETS["warp"]) | {"position_sensitive": True},
}


def _picture(pixels: Pixels) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    factor = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    uri = "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()
    return {"uri": uri, "width": width, "height": height}
