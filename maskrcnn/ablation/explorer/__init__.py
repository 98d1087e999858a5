"""The explorer: an interactive html page that works offline and shows how RoI operators read a box."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from jinja2 import Template
from maskrcnn_ops import Switches
from maskrcnn_ops.switches import PRESETS
from torch import Tensor

from maskrcnn.ablation.plot import OPERATOR_COLOURS
from maskrcnn.data.images import Pixels
from maskrcnn.errors import UserError

# Each script uses only those before it.
SCRIPTS = ("geometry.js", "picture.js", "examples.js", "draw.js", "panel.js", "pointer.js", "explorer.js")
OPERATORS = ("align", "align_legacy", "warp", "warp_mnc", "pool", "ps_align", "ps_pool", "ps_warp")
_OTHER_COLOUR = "#66717d"
MOST_BINS = 14
_LONGEST_SIDE = 800  # limit of the picture's sides in pixels
STRIDES = (4, 8, 16, 32)
POSITIONS = 4  # shifts of the image within one cell


@dataclass(frozen=True)
class ChannelMaps:
    """One channel of a network's features at one stride.

    Args:
        name: name of the network, as the page shows it.
        stride: pixels per cell.
        values: ``[POSITIONS + 1, H, W]``, for the image moved right by 0, 1/4, ..., 1 cell.
    """

    name: str
    stride: int
    values: npt.NDArray[np.float16]

    def packed(self) -> dict[str, Any]:
        """JSON for the page's script. The values are little-endian float16 in base64."""
        height, width = self.values.shape[1:]
        data = base64.b64encode(np.ascontiguousarray(self.values, dtype="<f2").tobytes()).decode()
        return {"name": self.name, "stride": self.stride, "height": height, "width": width, "data": data}


@dataclass(frozen=True)
class Start:
    """What the page shows when it opens.

    Args:
        box: x1, y1, x2, y2 in pixels of the network's input.
        size: (height, width) of the generated picture. Unused with a picture of your own.
        stride: pixels per cell of the feature map.
        output_size: P, bins per side, 1 to 14.
        operators: switches by name; they replace presets of the same name. The first and the last one are compared.
            If empty, align and pool are.

    Raises:
        UserError: ``output_size`` is out of range.
    """

    box: tuple[float, float, float, float] = (75.0, 118.0, 305.0, 303.0)
    size: tuple[int, int] = (400, 400)
    stride: int = 32
    output_size: int = 3
    operators: Mapping[str, Switches] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.output_size <= MOST_BINS:
            raise UserError(
                f"the page shows 1 to {MOST_BINS} bins per side; found output_size={self.output_size}"
            )


def explorer_page(
    start: Start | None = None, picture: Pixels | None = None, maps: Sequence[ChannelMaps] = ()
) -> str:
    """Make the page.

    Args:
        start: what the page shows when it opens.
        picture: ``[H, W, 3]`` uint8 RGB; None generates one.
        maps: feature channels of networks for ``picture``; the first network is shown.

    Returns:
        The page as html.
    """
    start = start or Start()
    family = {name: PRESETS[name] for name in OPERATORS} | dict(start.operators)
    operators = {
        name: {key: value for key, value in asdict(operator).items() if not key.startswith("canonical")}
        for name, operator in family.items()
    }
    data = {
        "operators": operators,
        "colours": {name: OPERATOR_COLOURS.get(name, _OTHER_COLOUR) for name in operators},
        "picture": None if picture is None else _picture(picture),
        "maps": [channel.packed() for channel in maps],
        "start": _start(start, picture, maps),
    }
    folder = files(__package__)
    scripts = [folder.joinpath(name).read_text("utf-8") for name in SCRIPTS]
    template = Template(folder.joinpath("template.html").read_text("utf-8"), keep_trailing_newline=True)
    html: str = template.render(
        css=folder.joinpath("explorer.css").read_text("utf-8"),
        data=json.dumps(data).replace("</", "<\\/"),
        scripts="\n".join(scripts),
    )
    return html


def _start(start: Start, picture: Pixels | None, maps: Sequence[ChannelMaps]) -> dict[str, Any]:
    height, width = start.size if picture is None else picture.shape[:2]
    strides = [channel.stride for channel in maps if channel.name == maps[0].name]
    given = list(start.operators) or ["align", "pool"]
    return {
        "box": start.box,
        "height": height,
        "width": width,
        "stride": start.stride if not strides or start.stride in strides else strides[-1],
        "bins": start.output_size,
        "operators": [given[0], given[-1]],
    }


def _picture(pixels: Pixels) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    factor = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    uri = "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()
    return {"uri": uri, "width": width, "height": height}


def channel_maps(
    name: str, features: Callable[[int], Mapping[int, Tensor]], size: tuple[int, int]
) -> list[ChannelMaps]:
    """Pick the channel with the largest variance at each of the strides 4, 8, 16 and 32 that the network has.

    Args:
        name: name of the network.
        features: returns the features ``[1, C, h, w]`` by stride of the image moved right by a number of pixels.
        size: (height, width) of the image in pixels. Maps are cut to the cells of the image and one more column.
    """
    at = {0: features(0)}
    found = []
    for stride in sorted(stride for stride in at[0] if stride in STRIDES):
        height, width = -(-size[0] // stride), -(-size[1] // stride) + 1
        channel = int(at[0][stride][0, :, :height, :width].float().var(dim=(1, 2)).argmax())
        values = []
        for step in range(POSITIONS + 1):
            shift = stride * step // POSITIONS
            if shift not in at:
                at[shift] = features(shift)
            values.append(at[shift][stride][0, channel, :height, :width].float().cpu().numpy())
        found.append(ChannelMaps(name, stride, np.stack(values).astype(np.float16)))
    return found
