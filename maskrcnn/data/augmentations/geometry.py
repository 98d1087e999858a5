"""Augmentations that move pixels and objects: flips, turns, rotation, shear, scale and crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from maskrcnn.data.augmentations.objects import FILL, Doubles, Size, moved
from maskrcnn.data.augmentations.protocol import Others
from maskrcnn.data.dataset import Example, Floats
from maskrcnn.data.images import Pixels
from maskrcnn.errors import UserError


def check_probability(**values: float) -> None:
    """Raise UserError for a value outside 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} is a probability, 0..1, not {value}")


@dataclass(frozen=True)
class Flip:
    """Flips the image.

    `Transform.horizontal_flip` flips the network's input. Put this one before `CopyPaste` in a list to flip both
    images independently.

    Args:
        horizontal: probability of a horizontal flip.
        vertical: probability of a vertical flip.
    """

    horizontal: float = 0.5
    vertical: float = 0.0

    def __post_init__(self) -> None:
        check_probability(horizontal=self.horizontal, vertical=self.vertical)

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Flip the example at random."""
        flips = rng.random(2) < (self.horizontal, self.vertical)
        image, (height, width) = flipped(example.image, *flips.tolist()), example.image.shape[:2]
        x, y = np.where(flips, -1.0, 1.0)
        return moved(example, image, np.array([[x, 0, width * flips[0]], [0, y, height * flips[1]]]))


@dataclass(frozen=True)
class QuarterTurns:
    """Rotates the image by 0, 90, 180 or 270 degrees with equal probability, without interpolation.

    Args:
        probability: probability of drawing a rotation. With 1, a quarter of the images still gets 0 degrees.
    """

    probability: float = 1.0

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Rotate the example at random."""
        turns = int(rng.integers(4)) if rng.random() < self.probability else 0
        for _ in range(turns):
            height = example.image.shape[0]
            image = _pixels(cv2.rotate(example.image, cv2.ROTATE_90_CLOCKWISE))
            example = moved(example, image, np.array([[0.0, -1, height], [1, 0, 0]]))
        return example


@dataclass(frozen=True)
class Affine:
    """Rotates and shears the image about its centre. The image keeps its size, and parts outside are cut off.

    Masks are warped with the image, and boxes are computed from the warped masks. An object without a mask gets the
    bounding box of its rotated corners, which is larger than the object. For data with boxes only, keep the angles
    small.

    Args:
        degrees: the angle is drawn from ``[-degrees, degrees]``.
        shear: the angle by which vertical lines lean is drawn from ``[-shear, shear]`` degrees.
        probability: probability of changing an image.
        fill: colour (red, green, blue) of the area outside the image.
    """

    degrees: float = 10.0
    shear: float = 0.0
    probability: float = 1.0
    fill: Sequence[int] = FILL

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        if not (0 <= self.degrees <= 180 and 0 <= self.shear < 90):
            raise UserError(
                f"degrees must be in 0..180 and shear in 0..90, not degrees={self.degrees} and shear={self.shear}"
            )

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Rotate and shear the example at random."""
        angle, shear = np.radians(rng.uniform(-1, 1, 2) * (self.degrees, self.shear))
        if rng.random() >= self.probability:
            return example
        height, width = example.image.shape[:2]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn @ np.array([[1, np.tan(shear)], [0, 1]])
        centre = np.array([width / 2, height / 2])
        matrix = np.column_stack([linear, centre - linear @ centre])
        return moved(example, warped(example.image, matrix, (height, width), self.fill), matrix)


@dataclass(frozen=True)
class ScaleJitter:
    """Scales the content of the image, which keeps its size (large-scale jitter, Ghiasi et al. 2021).

    An enlarged image is cropped at a random position. A reduced image is placed at a random position on an empty
    image.

    Args:
        low: smallest factor.
        high: largest factor.
        probability: probability of changing an image.
        fill: colour (red, green, blue) of the area outside the image.
    """

    low: float = 0.5
    high: float = 2.0
    probability: float = 1.0
    fill: Sequence[int] = FILL

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        if not 0 < self.low <= self.high:
            raise UserError(f"expected 0 < low <= high, not low={self.low} and high={self.high}")

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Scale the example at random."""
        factor = rng.uniform(self.low, self.high)
        if rng.random() >= self.probability:
            return example
        return placed(example, example.image.shape[:2], factor, rng, self.fill)


@dataclass(frozen=True)
class Crop:
    """Crops a random window that contains a random object.

    If the object is larger than the window, the window contains its centre. Objects at the edges are kept, with the
    remaining parts of their masks and boxes. `Transform.crop` crops windows of a fixed size, with or without objects.

    Args:
        smallest: smallest height and width of the window, relative to the image's.
        probability: probability of cropping an image.
    """

    smallest: float = 0.5
    probability: float = 1.0

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        if not 0 < self.smallest <= 1:
            raise UserError(f"smallest is a share of the image, above 0 and up to 1, not {self.smallest}")

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Crop the example at random."""
        if rng.random() >= self.probability:
            return example
        sides = example.image.shape[:2]
        height, width = (max(round(side * rng.uniform(self.smallest, 1)), 1) for side in sides)
        objects = np.flatnonzero(~example.crowd)
        box: Floats | None = example.boxes[rng.choice(objects)] if objects.size else None
        left = _start(width, sides[1], None if box is None else box[0::2], rng)
        top = _start(height, sides[0], None if box is None else box[1::2], rng)
        window = np.ascontiguousarray(example.image[top : top + height, left : left + width])
        return moved(example, window, np.array([[1.0, 0, -left], [0, 1, -top]]))


def _start(length: int, side: int, ends: Floats | None, rng: np.random.Generator) -> int:
    """Start of a window of ``length`` along a side that contains ``ends``, or their middle if the window is shorter."""
    if ends is None:
        return int(rng.integers(side - length + 1))
    low, high = (float(end) for end in ends)
    if np.ceil(high) - np.floor(low) > length:
        low = high = (low + high) / 2
    first, last = max(int(np.ceil(high)) - length, 0), min(int(np.floor(low)), side - length)
    return int(rng.integers(min(first, last), last + 1))


# --- images -------------------------------------------------------------------------------------------------


def flipped(image: Pixels, horizontally: bool, vertically: bool) -> Pixels:
    """Flip an image."""
    for axis in [1] * horizontally + [0] * vertically:
        image = _pixels(cv2.flip(image, axis))
    return image


def warped(image: Pixels, matrix: Doubles, size: Size, fill: Sequence[int]) -> Pixels:
    """Warp the image by linear interpolation between pixel centres.

    Args:
        image: ``[H, W, 3]`` uint8.
        matrix: ``[2, 3]``, from continuous coordinates of the old image to those of the new one.
        size: (height, width) of the new image.
        fill: colour of the area outside the image.
    """
    indices = matrix.copy()
    indices[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return _pixels(cv2.warpAffine(image, indices, size[::-1], flags=cv2.INTER_LINEAR, borderValue=list(fill)))


def placed(
    example: Example, size: Size, factor: float, rng: np.random.Generator, fill: Sequence[int] = FILL
) -> Example:
    """Scale the example, and place it at a random position of an image of another size, or crop it to that size.

    Args:
        example: the image with its objects.
        size: (height, width) of the new image.
        factor: scale.
        rng: source of random numbers.
        fill: colour of the area outside the image.
    """
    height, width = example.image.shape[:2]
    h, w = max(round(height * factor), 1), max(round(width * factor), 1)
    top, left = (_offset(room - side, rng) for room, side in zip(size, (h, w), strict=True))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = example.image if factor == 1 else _pixels(cv2.resize(example.image, (w, h), interpolation=how))
    canvas = np.full((*size, 3), fill, np.uint8)
    seen = image[max(-top, 0) : size[0] - top, max(-left, 0) : size[1] - left]
    y, x = max(top, 0), max(left, 0)
    canvas[y : y + seen.shape[0], x : x + seen.shape[1]] = seen
    return moved(example, canvas, np.array([[w / width, 0, left], [0, h / height, top]]))


def _offset(slack: int, rng: np.random.Generator) -> int:
    """A random offset between 0 and ``slack``, which is negative for an image larger than its canvas."""
    return int(rng.integers(min(slack, 0), max(slack, 0) + 1))


def _pixels(image: object) -> Pixels:
    return np.asarray(image, np.uint8)
