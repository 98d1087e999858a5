"""Mask probabilities pasted into the image, straight to COCO's compressed run-length encoding."""

from __future__ import annotations

from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .kernels import CPU
from .operators import ops

# Bilinear sums of values up to 1 in another order of operations differ by less than this.
DOUBT = 2.5e-7


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
    padded = pad(probs, (1, 1, 1, 1))
    corners = expand_boxes(boxes, (probs.shape[-1] + 2) / probs.shape[-1]).to(torch.int64)
    texts: list[str] = []
    if CPU.compiled:
        texts = _compiled(padded, corners, height, width, threshold, DOUBT)
    for d in range(len(padded)):
        if not CPU.compiled:
            texts.append(compress(runs_of(_pasted(padded[d], corners[d].tolist(), height, width, threshold))))
        elif not texts[d]:
            # Pixel by pixel as torch resamples them, so that it decides what lies on the threshold.
            pixels = _resized(padded[d], corners[d].tolist())[None]
            texts[d] = _compiled(pixels, corners[d : d + 1], height, width, threshold, 0.0)[0]
    return [{"size": [height, width], "counts": text} for text in texts]


def _compiled(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, doubt: float
) -> list[str]:
    """The counts by the compiled kernel; empty for a mask with a pixel within ``doubt`` of the threshold."""
    letters, ends = ops.masks_to_rle(masks.contiguous(), boxes.contiguous(), height, width, threshold, doubt)
    text, places = letters.numpy().tobytes().decode("ascii"), [0, *ends.tolist()]
    return [text[begin:end] for begin, end in pairwise(places)]


def expand_boxes(boxes: Tensor, factor: float) -> Tensor:
    """Boxes [D, 4] grown about their centres."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * factor
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
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
    """The mask at one value per pixel of its box."""
    left, top, right, bottom = box
    size = (max(bottom - top + 1, 1), max(right - left + 1, 1))
    return interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


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
