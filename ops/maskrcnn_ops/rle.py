"""Encoding of mask probabilities as COCO's compressed run lengths, without pasting them into the image."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import SupportsIndex, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .kernels import CPU
from .operators import ops

# Relative difference between two orders of the operations of a bilinear sum, each with at most four roundings.
DOUBT = 5e-7
FAR = 2.0**61  # pixels
MOST_PIXELS = 2**26  # largest box that torch resamples at once; 256 MiB


class Rle(TypedDict):
    """COCO's compressed run-length encoding: size is [height, width]."""

    size: list[int]
    counts: str


def masks_to_rle(probs: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[Rle]:
    """Encode masks at their positions in the image.

    The result equals that of torchvision's ``paste_masks_in_image`` (one cell of padding, the box grown by the same
    factor and cut to whole pixels, bilinear resampling), ``> threshold`` and pycocotools' ``encode``, without
    computing the pasted image. Pixels may be rounded differently only for boxes of more than 2^26 pixels, for which
    torchvision runs out of memory.

    Args:
        probs: [D, M, M] or [D, 1, M, M] finite probabilities.
        boxes: [D, 4] x1, y1, x2, y2 in pixels of the image. A box with NaN or an infinite centre has no pixel.
        height: height of the image in pixels.
        width: width of the image in pixels.
        threshold: pixels with a larger probability belong to the mask.

    Returns:
        D dictionaries ``{"size": [height, width], "counts": str}``, as in COCO's result files.

    Raises:
        ValueError: if an argument has a wrong shape or size.
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
    """Return the corners [D, 4] in whole pixels. NaN becomes a pixel outside of every image; sizes cannot overflow."""
    return boxes.nan_to_num(nan=-2.0, posinf=FAR, neginf=-FAR).clamp(-FAR, FAR).to(torch.int64)


def _compiled(probs: Tensor, corners: Tensor, height: int, width: int, threshold: float) -> list[str]:
    """Return the counts from the compiled kernel. Pixels too close to the threshold are resampled with torch."""
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
    """Return the counts of masks [D, rows, columns] with ``padding`` zero cells around them, and doubtful pixels.

    A pixel is doubtful if it is so close to the threshold that torch may decide differently. Each is listed as mask,
    row and column (relative to the first visible pixel of the box), and 1 if the kernel took it as above the
    threshold. A mask with long doubtful stretches has an empty text instead. With a negative ``doubt``, no pixel is
    doubtful.
    """
    letters, ends, close = ops.masks_to_rle(masks, boxes, height, width, padding, threshold, doubt)
    text, places = letters.numpy().tobytes().decode("ascii"), [0, *ends.tolist()]
    return [text[begin:end] for begin, end in pairwise(places)], close.tolist()


def expand_boxes(boxes: Tensor, factor: float) -> Tensor:
    """Scale boxes [D, 4] about their centres by ``factor``. The unit of the boxes does not matter."""
    low, high = boxes[:, :2], boxes[:, 2:]
    half, centre = (high - low) * (0.5 * factor), (high + low) * 0.5
    return torch.cat([centre - half, centre + half], dim=1)


def _pasted(mask: Tensor, box: list[int], height: int, width: int, threshold: float) -> Tensor:
    """Paste the mask [M, M] into an image [height, width] bool. ``box`` is in whole pixels, the last one included."""
    image = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = _cut(box, height, width)
    if rows and columns:
        image[rows.start : rows.stop, columns.start : columns.stop] = (
            _visible(mask, box, height, width) > threshold
        )
    return image


def _cut(box: list[int], height: int, width: int) -> tuple[range, range]:
    """Return the rows and columns of the image that lie in the box."""
    left, top, right, bottom = box
    return range(max(top, 0), min(bottom + 1, height)), range(max(left, 0), min(right + 1, width))


def _visible(mask: Tensor, box: list[int], height: int, width: int) -> Tensor:
    """Resample the mask, with one cell of padding, at every pixel of its box that lies in the image, [h, w]."""
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
    """Return the two cells next to each pixel of the image, and the weight of the second one."""
    within = (torch.arange(pixels.start, pixels.stop) - first).float()
    at = ((within + 0.5) * (cells / size) - 0.5).clamp_min(0)
    low = at.long().clamp_max(cells - 1)
    return low, (low + 1).clamp_max(cells - 1), at - low


def runs_of(mask: Tensor) -> list[int]:
    """Return the run lengths of a mask [height, width] in column-major order, beginning with the zeros."""
    flat = torch.cat([torch.zeros(1, dtype=torch.bool), mask.t().flatten()])
    change = torch.nonzero(flat[1:] != flat[:-1]).flatten()
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), change, torch.tensor([mask.numel()])])
    return ends.diff().tolist()


def compress(runs: list[int]) -> str:
    """Return COCO's compressed counts of run lengths.

    From the fourth run on, the difference to the run two before is stored. A number is cut into groups of five bits,
    lowest first. Bit 5 of a group says that more follow, bit 4 of the last group is the sign, and each group is stored
    as the character with code group + 48.
    """
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
