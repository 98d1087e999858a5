"""Augmentations that mix several training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from maskrcnn.data.augmentations.geometry import check_probability, placed
from maskrcnn.data.augmentations.objects import Size, chosen, joined, moved, without
from maskrcnn.data.augmentations.protocol import Others
from maskrcnn.data.dataset import Example
from maskrcnn.data.masks import MaskBitmap
from maskrcnn.errors import UserError

_WITHIN = 0.5  # smallest share of an object's pixels on a pasted object for which it is pasted too


@dataclass(frozen=True)
class CopyPaste:
    """Pastes objects of another training image onto the image (Ghiasi et al. 2021, "Simple Copy-Paste").

    The other image is drawn at random, passes the augmentations earlier in the list, and is scaled to fit this one. A
    random number of its objects is pasted at their positions, without blending. Objects that lie on a pasted one (a
    window on a house) are pasted too, because their pixels are. Objects below lose their hidden pixels, their boxes
    shrink with their masks, and invisible objects are dropped. Crowds are not pasted.

    Args:
        probability: probability of changing an image.
        most: largest number of objects to draw; None is all.

    Raises:
        UserError: when called for a data set without masks.
    """

    probability: float = 0.5
    most: int | None = None

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        if self.most is not None and self.most < 1:
            raise UserError(f"most must be at least 1, or null for no limit, not {self.most}")

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Paste objects of another example at random."""
        if others.count and not others.has_masks:
            raise UserError("CopyPaste needs masks, and the training set has none; take it out of the list")
        if rng.random() >= self.probability:
            return example
        size = example.image.shape[:2]
        other = others.draw(rng)
        other = placed(other, size, min(np.divide(size, other.image.shape[:2])), rng)
        objects = [g for g, mask in enumerate(other.masks) if mask is not None and not other.crowd[g]]
        if not objects:
            return example
        most = len(objects) if self.most is None else min(self.most, len(objects))
        drawn = rng.choice(objects, int(rng.integers(1, most + 1)), replace=False)
        pasted = chosen(other, _with_contents(other, drawn.tolist(), objects))
        hidden = _union(pasted.masks, size)
        image = np.where(hidden[..., None], pasted.image, example.image)
        return joined(replace(without(example, hidden), image=image), pasted)


def _with_contents(example: Example, drawn: list[int], objects: list[int]) -> list[int]:
    """``drawn``, and those of ``objects`` that lie at least half on them, in the order of the data set."""
    covered = _union([example.masks[g] for g in drawn], example.image.shape[:2])
    return [g for g in objects if g in drawn or _share(example.masks[g], covered) >= _WITHIN]


def _share(mask: MaskBitmap | None, covered: npt.NDArray[np.bool_]) -> float:
    """The share of a mask's pixels that are ``covered`` ``[H, W]``."""
    if mask is None:
        return 0.0
    return float((mask.bits * covered[mask.place]).sum() / mask.bits.sum())


def _union(masks: Sequence[MaskBitmap | None], size: Size) -> npt.NDArray[np.bool_]:
    """The union of the masks, ``[H, W]``."""
    out = np.zeros(size, np.bool_)
    for mask in masks:
        if mask is not None:
            out[mask.place] |= mask.bits.view(np.bool_)
    return out


@dataclass(frozen=True)
class Mosaic:
    """Combines the image and three others in one image of the same size (Bochkovskiy et al. 2020).

    Each image is scaled to cover its quarter and cropped at a random position. The common corner of the quarters is
    drawn from the middle half of the image.

    Args:
        probability: probability of changing an image.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Combine the example with three others at random."""
        if rng.random() >= self.probability:
            return example
        height, width = example.image.shape[:2]
        middle_y, middle_x = (int(rng.integers(side // 4, side - side // 4 + 1)) for side in (height, width))
        image, parts = np.zeros_like(example.image), []
        rows, columns = ((0, middle_y), (middle_y, height)), ((0, middle_x), (middle_x, width))
        for number, ((top, bottom), (left, right)) in enumerate((r, c) for r in rows for c in columns):
            part = example if number == 0 else others.draw(rng)
            size = bottom - top, right - left
            part = placed(part, size, max(np.divide(size, part.image.shape[:2])), rng)
            image[top:bottom, left:right] = part.image
            parts.append(moved(part, image, np.array([[1.0, 0, left], [0, 1, top]])))
        whole = parts[0]
        for part in parts[1:]:
            whole = joined(whole, part)
        return whole
