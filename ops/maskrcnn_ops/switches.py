"""The switches that define the RoI operators, and the named presets."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, fields
from typing import Any, Literal, TypedDict

BoxRounding = Literal["none", "round", "pixel"]
SamplePosition = Literal["centre", "corner", "thirds"]
Border = Literal["align", "mnc", "inner"]
Reduction = Literal["avg", "max"]

MAX_SAMPLING_RATIO = 1024  # its square, the samples of a bin, must fit the int32 of winners
# In the order of the enumerations of csrc/geometry.h.
ROUNDINGS: tuple[BoxRounding, ...] = ("none", "round", "pixel")
POSITIONS: tuple[SamplePosition, ...] = ("centre", "corner", "thirds")
BORDERS: tuple[Border, ...] = ("align", "mnc", "inner")
LEAST_WIDTHS = (0, 0.1, 1)
_CHOICES: dict[str, tuple[str, ...]] = {
    "box_rounding": ROUNDINGS,
    "sample_position": POSITIONS,
    "border": BORDERS,
    "reduction": ("avg", "max"),
}


@dataclass(frozen=True, kw_only=True)
class Switches:
    """Definition of one RoI operator: RoIPool, RoIWarp, RoIAlign or one between them.

    Along one axis, with s = 1 / stride, a box edge at x1 pixels and P bins:
    ``start = round(x1 s) - offset``, ``width = max(round(x2 s) - offset - start + one, min_width)`` and
    ``bin = width / P``.

    Args:
        box_rounding: "round" rounds the edges of the box to whole cells, half away from zero. "pixel" rounds them to
            whole pixels before they are scaled.
        plus_one: add one cell to the width; one pixel if box_rounding is "pixel".
        offset: shift of the box to the left and up, in cells: the centre of cell c lies at c + offset. 0.5 is the
            half-pixel convention; older operators have 0.
        min_width: minimum width and height of a region in cells: 0, 0.1 or 1. None means no minimum.
        bin_rounding: bins cover whole cells (RoIPool) instead of samples.
        sampling_ratio: samples per bin along each axis, at most 1024. If it is 0 or negative, a bin has one sample for
            each of its cells, rounded up.
        sample_position: sample i of n lies at (i + 0.5) / n ("centre"), i / n ("corner") or (i + 1) / (n + 1)
            ("thirds") of its bin.
        border: where samples become 0: beyond -1 or W ("align"), beyond -0.5 or W - 0.5 ("mnc"), or beyond 0 or W - 1
            ("inner"). With bin_rounding, "inner" leaves out the last row and column of the map, as torchvision's
            ps_roi_pool does; the others read the whole map.
        reduction: how the points of a bin are combined: "avg" or "max".
        position_sensitive: output channel c of bin (i, j) reads input channel ``(c P + i) P + j`` alone. The features
            have C P P channels, and the reduction is "avg".
        canonical_size: square root of the area, in pixels, of a box that pools from the canonical level.
        canonical_level: that level; its stride is 2 ** level.
        half_pixel: a spelling of the offset: true is 0.5, false is 0. It wins over an offset of 0 or
            0.5; with any other offset it is an error.

    Raises:
        TypeError, ValueError: if a switch has a wrong type or value.
    """

    box_rounding: BoxRounding = "none"
    plus_one: bool = False
    offset: float = 0.5
    min_width: float | None = None
    bin_rounding: bool = False
    sampling_ratio: int = 2
    sample_position: SamplePosition = "centre"
    border: Border = "align"
    reduction: Reduction = "avg"
    position_sensitive: bool = False
    canonical_size: float = 224
    canonical_level: float = 4
    half_pixel: InitVar[bool | None] = None

    def __post_init__(self, half_pixel: bool | None) -> None:
        _check_number("offset", self.offset)
        if half_pixel is not None:
            object.__setattr__(self, "offset", _offset_of(half_pixel, self.offset))
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, found {value!r}")
        for name in ("plus_one", "bin_rounding", "position_sensitive"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected true or false, found {getattr(self, name)!r}")
        if type(self.sampling_ratio) is not int:
            object.__setattr__(self, "sampling_ratio", _integer("sampling_ratio", self.sampling_ratio))
        if self.sampling_ratio > MAX_SAMPLING_RATIO:
            raise ValueError(
                f"sampling_ratio: expected at most {MAX_SAMPLING_RATIO} samples along an axis of a bin, "
                f"found {self.sampling_ratio}"
            )
        if self.min_width is not None:
            _check_number("min_width", self.min_width)
            if self.min_width not in LEAST_WIDTHS:
                raise ValueError(f"min_width: expected null, 0, 0.1 or 1, found {self.min_width!r}")
        if self.position_sensitive and self.reduction != "avg":
            raise ValueError(f"reduction: position_sensitive only supports 'avg', found {self.reduction!r}")
        for name in ("canonical_size", "canonical_level"):
            _check_number(name, getattr(self, name))
        if self.canonical_size <= 0:
            raise ValueError(f"canonical_size: expected a positive number, found {self.canonical_size!r}")

    def packed(self) -> list[float]:
        """Return the numbers that the compiled operators take. csrc/family.h unpacks them in this order."""
        return [
            float(ROUNDINGS.index(self.box_rounding)),
            float(self.plus_one),
            float(self.offset),
            -1.0 if self.min_width is None else float(self.min_width),
            float(self.bin_rounding),
            float(max(self.sampling_ratio, 0)),
            float(POSITIONS.index(self.sample_position)),
            float(BORDERS.index(self.border)),
            float(self.position_sensitive),
            float(self.canonical_size),
            float(self.canonical_level),
        ]

    def input_channels(self, height: int, width: int) -> int:
        """Return the number of input channels for each output channel.

        Args:
            height: of the output.
            width: of the output.
        """
        return height * width if self.position_sensitive else 1

    @classmethod
    def unpacked(cls, packed: list[float], reduction: Reduction) -> Switches:
        """Invert :meth:`packed`.

        Args:
            packed: the numbers.
            reduction: is not among the numbers.
        """
        return cls(
            box_rounding=ROUNDINGS[int(packed[0])],
            plus_one=bool(packed[1]),
            offset=packed[2],
            min_width=None if packed[3] < 0 else packed[3],
            bin_rounding=bool(packed[4]),
            sampling_ratio=int(packed[5]),
            sample_position=POSITIONS[int(packed[6])],
            border=BORDERS[int(packed[7])],
            reduction=reduction,
            position_sensitive=bool(packed[8]),
            canonical_size=packed[9],
            canonical_level=packed[10],
        )


class GeometryOverrides(TypedDict, total=False):
    """Keyword arguments for the switches of the geometry; see :class:`Switches`."""

    box_rounding: BoxRounding
    plus_one: bool
    offset: float
    half_pixel: bool
    min_width: float | None
    bin_rounding: bool
    sample_position: SamplePosition
    border: Border
    position_sensitive: bool


class ReductionOverrides(GeometryOverrides, total=False):
    """Keyword arguments for all switches except the sampling ratio."""

    reduction: Reduction


class SwitchOverrides(ReductionOverrides, total=False):
    """Keyword arguments for all switches."""

    sampling_ratio: int


def _offset_of(half_pixel: object, offset: float) -> float:
    """Return the offset that ``half_pixel`` stands for. Other offsets than 0 and 0.5 contradict it: a ValueError."""
    if not isinstance(half_pixel, bool):
        raise TypeError(f"half_pixel: expected true or false, found {half_pixel!r}")
    if offset not in (0, 0.5):
        raise ValueError(
            f"half_pixel: true and false stand for offset 0.5 and 0, found offset {offset!r} as well; "
            "give one of the two"
        )
    return 0.5 if half_pixel else 0.0


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, found {value!r}")
    return operator.index(value)


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, found {value!r}")
    if not -math.inf < value < math.inf:  # math.isfinite breaks the graph of torch.compile(dynamic=True)
        raise ValueError(f"{name}: expected a finite number, found {value!r}")


_NAMES = tuple(f.name for f in fields(Switches))
_OVERRIDABLE = (*(name for name in _NAMES if not name.startswith("canonical")), "half_pixel")

_LEGACY = Switches(offset=0.0, min_width=1)
_ROUNDED: dict[str, Any] = {"box_rounding": "round", "offset": 0.0, "min_width": 1}
PRESETS: dict[str, Switches] = {
    "align": Switches(),
    "align_legacy": _LEGACY,
    "pool": Switches(**_ROUNDED, plus_one=True, bin_rounding=True, reduction="max"),
    "warp": Switches(**_ROUNDED, plus_one=True),
    "warp_mnc": Switches(
        **{**_ROUNDED, "min_width": 0}, sample_position="corner", border="mnc", reduction="max"
    ),
    "warp_continuous": _LEGACY,
    "ps_align": Switches(position_sensitive=True),
    "ps_pool": Switches(**_ROUNDED, bin_rounding=True, border="inner", position_sensitive=True),
    "ps_pool_rfcn": Switches(
        box_rounding="pixel",
        plus_one=True,
        offset=0.0,
        min_width=0.1,
        bin_rounding=True,
        position_sensitive=True,
    ),
    "ps_warp": Switches(**_ROUNDED, position_sensitive=True),
}


def preset(name: str) -> Switches:
    """Return the switches of a named operator. An unknown name is a ValueError that lists the names."""
    if name not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, found {name!r}")
    return PRESETS[name]


def override(switches: Switches, overrides: Mapping[str, Any]) -> Switches:
    """Return the switches with ``overrides`` applied. An unknown switch is a TypeError."""
    for name in overrides:
        if name not in _OVERRIDABLE:
            raise TypeError(
                f"unexpected keyword argument {name!r}; the switches are {', '.join(_OVERRIDABLE)}"
            )
    # torch.compile cannot trace dataclasses.replace.
    given: dict[str, Any] = {name: getattr(switches, name) for name in _NAMES}
    given.update(overrides)
    return Switches(**given)
