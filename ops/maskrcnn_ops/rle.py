"""Mask probabilities pasted into the image, straight to COCO's compressed run-length encoding."""

from __future__ import annotations

from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .kernels import CPU
from .operators import ops

# Two orders of the operations of a bilinear sum, each of at most four roundings, differ by less than this part of it.
DOUBT = 5e-7


class Rle(TypedDict):
    """COCO's compressed run-length encoding: size is [height, width]."""

    size: list[int]
    counts: str


def masks_to_rle(probs: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[Rle]:
    """Encodes each mask as it lies in the image.

    Equals torchvision's ``paste_masks_in_image`` (one cell of padding, the box grown by the same factor and cut to
    whole pixels, bilinear resampling), ``> threshold`` and pycocotools' ``encode``, without making the image.

    Args:
        probs: [D, M, M] or [D, 1, M, M] probabilities.
        boxes: [D, 4] x1, y1, x2, y2 in pixels of the image.
        height, width: of the image.
        threshold: a pixel belongs to the mask where its probability is above.

    Returns:
        D dictionaries ``{"size": [height, width], "counts": str}``, as COCO's result files want them.

    Raises:
        ValueError: for wrong shapes.
    """
    if probs.dim() == 4 and probs.shape[1] == 1:
        probs = probs[:, 0]
    if probs.dim() != 3 or probs.shape[1] != probs.shape[2]:
        raise ValueError(f"probs: expected [D, M, M], found {list(probs.shape)}")
    if boxes.shape != (len(probs), 4):
        raise ValueError(f"boxes: expected [{len(probs)}, 4], found {list(boxes.shape)}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width: expected at least 1, found {height} and {width}")
    probs, boxes = probs.detach().float().cpu(), boxes.detach().float().cpu()
    corners = expand_boxes(boxes, (probs.shape[-1] + 2) / probs.shape[-1]).to(torch.int64)
    if CPU.compiled:
        texts = _compiled(probs.contiguous(), corners, height, width, threshold)
    else:
        pasted = (_pasted(probs[d], corners[d].tolist(), height, width, threshold) for d in range(len(probs)))
        texts = [compress(runs_of(mask)) for mask in pasted]
    return [{"size": [height, width], "counts": text} for text in texts]


def _compiled(probs: Tensor, corners: Tensor, height: int, width: int, threshold: float) -> list[str]:
    """The counts by the compiled kernel, which leaves to torch's resampling what lies on the threshold."""
    texts, close = _encoded(probs, corners, height, width, 1, threshold, DOUBT * threshold)
    resized: dict[int, Tensor] = {}
    wrong = {d for d, text in enumerate(texts) if not text}
    for d, row, column, above in close:
        if d not in resized:
            resized[d] = _resized(probs[d], corners[d].tolist())
        left, top = corners[d, :2].tolist()
        if (resized[d][row + max(-top, 0), column + max(-left, 0)] > threshold) != above:
            wrong.add(d)
    for d in wrong:
        pixels = resized[d] if d in resized else _resized(probs[d], corners[d].tolist())
        ((texts[d],), _) = _encoded(pixels[None], corners[d : d + 1], height, width, 0, threshold, 0.0)
    return texts


def _encoded(
    masks: Tensor, boxes: Tensor, height: int, width: int, padding: int, threshold: float, doubt: float
) -> tuple[list[str], list[list[int]]]:
    """The counts of masks [D, rows, columns] with ``padding`` cells of zero around them, and pixels in doubt.

    No counts stand for a mask with whole stretches within ``doubt`` of the threshold; single pixels that close are
    listed: mask, row and column from the first ones within box and image, and 1 where they were taken as above it.
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
    left, top, right, bottom = box
    resized = _resized(mask, box)
    image = torch.zeros(height, width, dtype=torch.bool)
    y0, y1 = max(top, 0), min(bottom + 1, height)
    x0, x1 = max(left, 0), min(right + 1, width)
    if y1 > y0 and x1 > x0:
        image[y0:y1, x0:x1] = resized[y0 - top : y1 - top, x0 - left : x1 - left] > threshold
    return image


def _resized(mask: Tensor, box: list[int]) -> Tensor:
    """The mask, with its cell of padding, at one value per pixel of its box."""
    left, top, right, bottom = box
    size = (max(bottom - top + 1, 1), max(right - left + 1, 1))
    return interpolate(pad(mask, (1, 1, 1, 1))[None, None], size=size, mode="bilinear", align_corners=False)[
        0, 0
    ]


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
