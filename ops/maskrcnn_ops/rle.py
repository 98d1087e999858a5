"""Mask probabilities pasted into the image, straight to COCO's compressed run-length encoding."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import SupportsIndex, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .kernels import CPU
from .operators import ops

# Two orders of the operations of a bilinear sum, each of at most four roundings, differ by less than this part of it.
DOUBT = 5e-7
FAR = 2.0**61  # pixels
MOST_PIXELS = 2**26  # of a box that torch resamples whole, 256 MiB


class Rle(TypedDict):
    """COCO's compressed run-length encoding: size is [height, width]."""

    size: list[int]
    counts: str


def masks_to_rle(probs: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[Rle]:
    """Encodes each mask as it lies in the image.

    Equals torchvision's ``paste_masks_in_image`` (one cell of padding, the box grown by the same factor and cut to
    whole pixels, bilinear resampling), ``> threshold`` and pycocotools' ``encode``, without making the image. Only of
    boxes of more than 2^26 pixels, which torchvision has no memory for, pixels may be rounded otherwise.

    Args:
        probs: [D, M, M] or [D, 1, M, M] finite probabilities.
        boxes: [D, 4] x1, y1, x2, y2 in pixels of the image; one with NaN or an infinite centre has no pixel.
        height, width: of the image.
        threshold: a pixel belongs to the mask where its probability is above.

    Returns:
        D dictionaries ``{"size": [height, width], "counts": str}``, as COCO's result files want them.

    Raises:
        ValueError: for wrong shapes and sizes.
    """
    if probs.dim() == 4 and probs.shape[1] == 1:
        probs = probs[:, 0]
    if probs.dim() != 3 or probs.shape[1] != probs.shape[2] or not probs.shape[2]:
        raise ValueError(f"probs: expected [D, M, M], found {list(probs.shape)}")
    if boxes.shape != (len(probs), 4):
        raise ValueError(f"boxes: expected [{len(probs)}, 4], found {list(boxes.shape)}")
    height, width = (_whole(name, value) for name, value in (("height", height), ("width", width)))
    probs, boxes = probs.detach().float().cpu(), boxes.detach().float().cpu()
    corners = _pixels(expand_boxes(boxes, (probs.shape[-1] + 2) / probs.shape[-1]))
    if CPU.compiled:
        texts = _compiled(probs.contiguous(), corners, height, width, threshold)
    else:
        pasted = (_pasted(probs[d], corners[d].tolist(), height, width, threshold) for d in range(len(probs)))
        texts = [compress(runs_of(mask)) for mask in pasted]
    return [{"size": [height, width], "counts": text} for text in texts]


def _whole(name: str, value: int) -> int:
    if not isinstance(value, SupportsIndex) or operator.index(value) < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, found {value!r}")
    return operator.index(value)


def _pixels(boxes: Tensor) -> Tensor:
    """Corners [D, 4] in whole pixels; one that is NaN lies beside every image, none so far that sizes overflow."""
    return boxes.nan_to_num(nan=-2.0, posinf=FAR, neginf=-FAR).clamp(-FAR, FAR).to(torch.int64)


def _compiled(probs: Tensor, corners: Tensor, height: int, width: int, threshold: float) -> list[str]:
    """The counts by the compiled kernel, which leaves to torch's resampling what lies on the threshold."""
    texts, close = _encoded(probs, corners, height, width, 1, threshold, DOUBT * threshold)
    seen: dict[int, Tensor] = {}
    wrong = {d for d, text in enumerate(texts) if not text}
    for d, row, column, above in close:
        if d not in seen:
            seen[d] = _visible(probs[d], corners[d].tolist(), height, width)
        if (seen[d][row, column] > threshold) != above:
            wrong.add(d)
    for d in wrong:
        box = corners[d].tolist()
        pixels = seen[d] if d in seen else _visible(probs[d], box, height, width)
        rows, columns = _cut(box, height, width)
        place = torch.tensor([[columns.start, rows.start, columns.stop - 1, rows.stop - 1]])
        ((texts[d],), _) = _encoded(pixels[None].contiguous(), place, height, width, 0, threshold, -1.0)
    return texts


def _encoded(
    masks: Tensor, boxes: Tensor, height: int, width: int, padding: int, threshold: float, doubt: float
) -> tuple[list[str], list[list[int]]]:
    """The counts of masks [D, rows, columns] with ``padding`` cells of zero around them, and pixels in doubt.

    No counts stand for a mask with whole stretches so close to the threshold that torch may decide otherwise; single
    pixels that close are listed: mask, row and column from the first ones within box and image, and 1 where they were
    taken as above it. With a negative ``doubt`` there are none.
    """
    letters, ends, close = ops.masks_to_rle(masks, boxes, height, width, padding, threshold, doubt)
    text, places = letters.numpy().tobytes().decode("ascii"), [0, *ends.tolist()]
    return [text[begin:end] for begin, end in pairwise(places)], close.tolist()


def expand_boxes(boxes: Tensor, factor: float) -> Tensor:
    """Boxes [D, 4] grown about their centres."""
    low, high = boxes[:, :2], boxes[:, 2:]
    half, centre = (high - low) * (0.5 * factor), (high + low) * 0.5
    return torch.cat([centre - half, centre + half], dim=1)


def _pasted(mask: Tensor, box: list[int], height: int, width: int, threshold: float) -> Tensor:
    """The mask [M, M] within the image, [height, width] bool; ``box`` in whole pixels, last one included."""
    image = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = _cut(box, height, width)
    if rows and columns:
        image[rows.start : rows.stop, columns.start : columns.stop] = (
            _visible(mask, box, height, width) > threshold
        )
    return image


def _cut(box: list[int], height: int, width: int) -> tuple[range, range]:
    """The rows and columns of the image that lie in the box."""
    left, top, right, bottom = box
    return range(max(top, 0), min(bottom + 1, height)), range(max(left, 0), min(right + 1, width))


def _visible(mask: Tensor, box: list[int], height: int, width: int) -> Tensor:
    """The mask, with its cell of padding, at every pixel of its box within the image, [h, w]."""
    left, top, right, bottom = box
    rows, columns = _cut(box, height, width)
    size = (max(bottom - top + 1, 1), max(right - left + 1, 1))
    padded = pad(mask, (1, 1, 1, 1))
    if size[0] * size[1] <= MOST_PIXELS:
        resized = interpolate(padded[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        return resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    low, high, across = _bilinear(columns, left, size[1], padded.shape[1])
    mixed = (1 - across) * padded[:, low] + across * padded[:, high]
    low, high, down = _bilinear(rows, top, size[0], padded.shape[0])
    return (1 - down)[:, None] * mixed[low] + down[:, None] * mixed[high]


def _bilinear(pixels: range, first: int, size: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells that each pixel of the image lies between, and how far it is on the way."""
    within = (torch.arange(pixels.start, pixels.stop) - first).float()
    at = ((within + 0.5) * (cells / size) - 0.5).clamp_min(0)
    low = at.long().clamp_max(cells - 1)
    return low, (low + 1).clamp_max(cells - 1), at - low


def runs_of(mask: Tensor) -> list[int]:
    """Lengths of the runs of [height, width] bool down its columns, beginning with the zeros."""
    flat = torch.cat([torch.zeros(1, dtype=torch.bool), mask.t().flatten()])
    change = torch.nonzero(flat[1:] != flat[:-1]).flatten()
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), change, torch.tensor([mask.numel()])])
    return ends.diff().tolist()


def compress(runs: list[int]) -> str:
    """COCO's compressed counts: each run, from the fourth on as the difference to the one two before, in groups of
    five bits, lowest first, sign in bit 4 of the last group, bit 5 set where more follow, plus 48."""
    text = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text.append(chr(group + (32 if more else 0) + 48))
    return "".join(text)
