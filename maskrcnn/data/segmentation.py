"""Decodes COCO's segmentations (polygons and both kinds of RLE) to bitmaps, for all objects of an image together.

pycocotools rasterises polygons, so that the pixels are those that everybody scores with. It returns compressed RLE,
which is decoded here for all objects together, touching only the columns with an object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from maskrcnn.data.masks import MaskBitmap
from maskrcnn.errors import UserError

Runs = npt.NDArray[np.int64]


def decode(segmentation: Any, height: int, width: int) -> MaskBitmap | None:
    """Decode a COCO ``segmentation``: polygons, compressed RLE or uncompressed RLE.

    The bitmap equals pycocotools' ``annToMask`` bit for bit.

    Args:
        segmentation: as in COCO's json.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        The mask, or None if it is empty.

    Raises:
        UserError: the segmentation is of no known kind, or does not fit the image's size.
    """
    return decode_all([segmentation], height, width)[0]


def decode_all(segmentations: Sequence[Any], height: int, width: int) -> list[MaskBitmap | None]:
    """Decode several segmentations of one image. Arguments, results and errors as in `decode`."""
    counts = [_counts(segmentation, height, width) for segmentation in segmentations]
    places = [place for place, value in enumerate(counts) if isinstance(value, bytes)]
    for place, parsed in zip(places, parse_rle_strings([counts[place] for place in places]), strict=True):
        counts[place] = parsed
    for runs, segmentation in zip(counts, segmentations, strict=True):
        if not isinstance(segmentation, list):  # polygons are already rasterised
            _check_sum(runs, height, width)
    return _bitmaps(counts, height)


def _check_sum(runs: Runs, height: int, width: int) -> None:
    if runs.size and (runs.sum() != height * width or runs.min() < 0):
        raise UserError(
            f"its RLE describes {runs.sum()} pixels, but the image has {height} x {width} = {height * width}"
        )


def compressed(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Convert any kind of segmentation to COCO's compressed RLE, ``{"size": [H, W], "counts": bytes}``.

    Args:
        segmentation: as in COCO's json. The content of an RLE string is not checked.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        UserError: the segmentation is of no known kind, or does not fit the image's size.
    """
    counts = _counts(segmentation, height, width)
    if not isinstance(counts, bytes):
        _check_sum(counts, height, width)
        uncompressed = {"size": [height, width], "counts": counts.tolist() or [height * width]}
        counts = coco_mask.frPyObjects(uncompressed, height, width)["counts"]
    elif not counts:
        counts = coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))["counts"]
    return {"size": [height, width], "counts": counts}


def embedded(
    rles: Sequence[dict[str, Any]], top: int, left: int, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Convert masks of a window of an image to masks of the image, without decoding them.

    Args:
        rles: compressed COCO RLEs of the window.
        top: row of the image in which the window begins.
        left: column of the image in which the window begins.
        size: (height, width) of the image.
    """
    parsed = parse_rle_strings([_counts(rle, *rle["size"]) for rle in rles])
    pairs = zip(parsed, rles, strict=True)
    return [_embedded(runs, rle["size"][0], top, left, size) for runs, rle in pairs]


def _embedded(runs: Runs, rows: int, top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """One of the masks of `embedded`, from its run lengths in a window of ``rows`` rows."""
    height, width = size
    starts, ends, _ = _ones([runs])
    first = starts // rows
    columns = (ends - 1) // rows - first + 1  # number of columns of a run of ones
    column = np.repeat(first - np.cumsum(columns) + columns, columns) + np.arange(columns.sum())
    begin = np.maximum(np.repeat(starts, columns) - column * rows, 0)
    end = np.minimum(np.repeat(ends, columns) - column * rows, rows)
    places, times = np.unique((column + left) * height + top + np.stack([begin, end]), return_counts=True)
    # If the window is as high as the image, adjacent runs of ones merge.
    changes = np.unique(np.append(places[times == 1], height * width))
    counts = np.diff(changes, prepend=0)
    uncompressed = {"size": [height, width], "counts": counts.tolist()}
    counts_text: bytes = coco_mask.frPyObjects(uncompressed, height, width)["counts"]
    return {"size": [height, width], "counts": counts_text.decode("ascii")}


def polygon_bounds(polygon: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """Bounds (x1, y1, x2, y2) of a polygon ``[x1, y1, x2, y2, ...]``.

    Args:
        polygon: flat list of coordinates in pixels.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: the polygon cannot be rasterised. pycocotools would read four numbers as a box, ignore an odd
            number, and crash the process on far-away corners.
    """
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        raise ValueError("a polygon that is not a list of numbers")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon of fewer than six numbers, or of an odd number of them")
    try:
        finite = math.isfinite(sum(polygon))
    except OverflowError:  # integers beyond the range of floats
        finite = True
    if not finite:
        raise ValueError("a polygon with a number that is not finite")
    xs, ys, reach = polygon[::2], polygon[1::2], height + width
    bounds = min(xs), min(ys), max(xs), max(ys)
    if min(bounds[:2]) < -reach or max(bounds[2:]) > 2 * reach:
        raise ValueError("a polygon far outside of its image")
    return bounds


def _counts(segmentation: Any, height: int, width: int) -> Any:
    """The compressed RLE string, or the run lengths of an uncompressed one."""
    if isinstance(segmentation, list):
        return _polygon_counts(segmentation, height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise UserError(
            "its segmentation is neither a list of polygons nor an RLE with 'counts' and 'size' "
            f"(found {type(segmentation).__name__})"
        )
    if segmentation.get("size") not in ([height, width], (height, width)):
        raise UserError(
            f"its RLE is for an image of size {segmentation.get('size')} (height, width), "
            f"but the image is {[height, width]}"
        )
    counts = segmentation["counts"]
    if isinstance(counts, bytes):
        return counts
    try:
        if isinstance(counts, str):
            return counts.encode("ascii")
        return np.asarray(counts, dtype=np.int64).reshape(-1)
    except UnicodeEncodeError as error:
        raise UserError(_DAMAGED) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError("its RLE 'counts' is neither a string nor a list of whole numbers") from error


def _polygon_counts(polygons: list[Any], height: int, width: int) -> bytes:
    """Compressed RLE of the union of polygons."""
    for polygon in polygons:
        try:
            polygon_bounds(polygon, height, width)
        except ValueError as error:
            raise UserError(f"its segmentation holds {error}") from error
    if not polygons:
        return b""
    pieces = coco_mask.frPyObjects(polygons, height, width)
    merged: bytes = (pieces[0] if len(pieces) == 1 else coco_mask.merge(pieces))["counts"]
    return merged


_DAMAGED = "its RLE string is damaged (it holds characters that COCO's encoding never writes)"


def check_rle_strings(strings: Sequence[bytes]) -> None:
    """Raise UserError if a string has characters that COCO's encoding never writes, or ends within a number."""
    characters = np.frombuffer(b"".join(strings), np.uint8)
    ends = np.cumsum([len(string) for string in strings if string], dtype=np.int64) - 1
    if characters.size and (
        characters.min() < 48 or characters.max() > 111 or ((characters[ends] - 48) & 32).any()
    ):
        raise UserError(_DAMAGED)


def parse_rle_strings(strings: Sequence[bytes]) -> list[Runs]:
    """Parse COCO's compressed RLE strings to run lengths of 0 and 1 in turn, column by column.

    Each number is written in groups of five bits, lowest first, as characters of six bits from '0' on. Bit 5 means
    "more follows", and bit 4 of the last group is the sign. From the fourth number on, it is the difference to the
    number two before it.
    """
    check_rle_strings(strings)
    digits = np.frombuffer(b"".join(strings), np.uint8).astype(np.int64) - 48
    if digits.size == 0:
        return [digits for _ in strings]
    of_strings = np.cumsum([len(string) for string in strings])
    ends = np.flatnonzero((digits & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = 5 * (np.arange(digits.size) - np.repeat(starts, ends - starts + 1))
    if place.max() > 30:
        raise UserError("its RLE string is damaged (a run longer than any image)")
    numbers = np.add.reduceat((digits & 31) << place, starts)
    numbers -= np.where(digits[ends] & 16, np.int64(1) << (place[ends] + 5), 0)
    runs = np.split(numbers, np.searchsorted(ends, of_strings[:-1]))
    for of_one in runs:
        np.cumsum(of_one[1::2], out=of_one[1::2])
        np.cumsum(of_one[2::2], out=of_one[2::2])
    return runs


def _bitmaps(runs: Sequence[Runs], height: int) -> list[MaskBitmap | None]:
    """Bitmaps of column-major run lengths; None for an empty mask.

    The columns of all objects, cropped to their own rows, are written end to end into one array.
    """
    bitmaps: list[MaskBitmap | None] = [None] * len(runs)
    starts, ends, owner = _ones(runs)
    if not starts.size:
        return bitmaps
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    number = np.diff(first, append=len(owner))
    (x, y), (x_last, y_last) = np.divmod(starts, height), np.divmod(ends - 1, height)
    # A run over several columns reaches the lowest and the highest row.
    top = np.minimum.reduceat(np.where(x == x_last, y, 0), first)
    bottom = np.maximum.reduceat(np.where(x == x_last, y_last + 1, height), first)
    left = x[first]
    cells = (bottom - top) * (x_last[first + number - 1] + 1 - left)
    offset = np.concatenate(([0], np.cumsum(cells)))
    rows = np.repeat(bottom - top, number)
    moved = np.repeat(offset[:-1] - left * (bottom - top) - top, number)
    changes = np.stack([x * rows + y + moved, x_last * rows + y_last + 1 + moved], axis=1).reshape(-1)
    values = np.zeros(changes.size + 1, np.uint8)
    values[1::2] = 1
    columns = np.repeat(values, np.diff(changes, prepend=0, append=offset[-1]))
    pieces = np.stack([owner[first], left, top, bottom - top, offset[:-1], offset[1:]], axis=1).tolist()
    for place, x0, y0, side, begin, end in pieces:
        block = columns[begin:end].reshape(-1, side)
        bitmaps[place] = MaskBitmap(x0, y0, np.asarray(cv2.transpose(block), np.uint8))
    return bitmaps


def _ones(runs: Sequence[Runs]) -> tuple[Runs, Runs, Runs]:
    """Every run of ones: its first pixel, the pixel after its last, and its mask, ``[runs of 1]`` each."""
    lengths = np.array([len(of_one) for of_one in runs], np.int64)
    flat = np.concatenate([*runs, np.zeros(0, np.int64)])
    begin = np.cumsum(lengths) - lengths
    total = np.concatenate(([0], np.cumsum(flat)))
    odd = (np.arange(flat.size) - np.repeat(begin, lengths)) % 2 == 1
    odd &= flat > 0
    owner = np.repeat(np.arange(len(runs)), lengths)[odd]
    base = total[begin][owner]
    return total[:-1][odd] - base, total[1:][odd] - base, owner
