"""Draws the pictures of the generated data set: textured shapes on a textured background, with exact masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Generator = np.random.Generator

# A shape is a regular star polygon: corners at the radius, notches between them at this share of it. A
# notch at cos(pi / corners) makes the sides straight; the circle has no corners.
NAMES = ("circle", "square", "triangle", "star", "hexagon", "cross")
_CORNERS = {"square": 4, "triangle": 3, "star": 5, "hexagon": 6, "cross": 4}
_NOTCH = {"star": 0.45, "cross": 0.35}
_SUPERSAMPLES = 4
_MIN_VISIBLE = 0.5  # smallest visible share of an object's area


@dataclass(frozen=True)
class Shape:
    """One object.

    Args:
        label: index of its class.
        x: centre in pixels.
        y: centre in pixels.
        radius: circumradius in pixels.
        angle: rotation in radians.
    """

    label: int
    x: float
    y: float
    radius: float
    angle: float


def coverage(shape: Shape, image_size: int) -> tuple[int, int, Floats]:
    """Compute the share of each pixel that the shape covers.

    Args:
        shape: the shape.
        image_size: side of the picture in pixels.

    Returns:
        ``(x0, y0, [h, w] in 0..1)`` for the bounding rectangle.
    """
    x0, y0 = (max(math.floor(c - shape.radius), 0) for c in (shape.x, shape.y))
    x1, y1 = (min(math.ceil(c + shape.radius), image_size) for c in (shape.x, shape.y))
    steps = np.float32(1 / _SUPERSAMPLES)
    dx = (np.arange((x1 - x0) * _SUPERSAMPLES, dtype=np.float32) + 0.5) * steps + np.float32(x0 - shape.x)
    dy = (np.arange((y1 - y0) * _SUPERSAMPLES, dtype=np.float32) + 0.5) * steps + np.float32(y0 - shape.y)
    inside = _inside(shape, dx[None, :], dy[:, None])
    # The area average over complete blocks of samples is exact (sixteenths).
    covered = cv2.resize(inside.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return x0, y0, np.asarray(covered, np.float32)


def _inside(shape: Shape, dx: Floats, dy: Floats) -> npt.NDArray[np.bool_]:
    """Whether points, relative to the centre, lie inside the shape."""
    name, radius = NAMES[shape.label], np.float32(shape.radius)
    if name == "circle":
        return np.asarray(dx * dx + dy * dy <= radius * radius)
    half = math.pi / _CORNERS[name]
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    u, v = _fold(
        dx * np.float32(cos) + dy * np.float32(sin), dy * np.float32(cos) - dx * np.float32(sin), name
    )
    notch = radius * np.float32(_NOTCH.get(name, math.cos(half)))
    end_u, end_v = notch * np.float32(math.cos(half)), notch * np.float32(math.sin(half))
    return np.asarray(u * end_v + v * (radius - end_u) <= radius * end_v)


def _fold(u: Floats, v: Floats, name: str) -> tuple[Floats, Floats]:
    """Reflect points at the shape's axes into the wedge between one corner and the next notch.

    In this wedge, the outline is one straight line. Each reflection halves the number of wedges.
    """
    v = np.abs(v)
    wedges = _CORNERS[name]
    while wedges > 1:
        axis = math.pi / _CORNERS[name] * (wedges := (wedges + 1) // 2)
        cos, sin = np.float32(math.cos(axis)), np.float32(math.sin(axis))
        beyond = np.maximum(v * cos - u * sin, 0) * np.float32(2)
        u, v = u + beyond * sin, v - beyond * cos
    return u, v


def ground(rng: Generator, size: int) -> Floats:
    """A textured background ``[size, size, 3]``, 0..255: soft blotches, a faint grating and grain."""
    colour = rng.uniform(50, 205, 3).astype(np.float32)
    cells = int(rng.integers(4, 16))
    blotches = rng.normal(0, 18, (cells, cells, 3)).astype(np.float32)
    picture = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC) + colour
    return np.asarray(picture + _pattern(rng, size, size, rng.uniform(0, 18)), np.float32)


def fill(rng: Generator, height: int, width: int, behind: Floats) -> Floats:
    """A textured surface ``[height, width, 3]`` for an object.

    Its mean colour differs from the background by at least 45 of 255. All classes use the same colours and patterns.

    Args:
        rng: source of random numbers.
        height: in pixels.
        width: in pixels.
        behind: ``[3]``, colour of the background.
    """
    colour = rng.uniform(30, 225, 3).astype(np.float32)
    while np.linalg.norm(colour - behind) < 45:
        colour = rng.uniform(30, 225, 3).astype(np.float32)
    return np.asarray(colour + _pattern(rng, height, width, rng.uniform(5, 35)), np.float32)


def _pattern(rng: Generator, height: int, width: int, contrast: float) -> Floats:
    """A grating or checkerboard of random direction and period, tinted, with grain: ``[height, width, 3]``."""
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(4, 16), rng.uniform(0, 2 * np.pi)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    turn = np.float32(2 * np.pi / period)
    waves = np.sin(turn * (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) + np.float32(phase))
    if rng.random() < 0.5:
        waves = waves * np.sin(turn * (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))))
    tint = rng.uniform(0.4, 1, 3).astype(np.float32) * np.float32(contrast)
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(6)
    return np.asarray(waves[..., None] * tint + grain, np.float32)


def landmarks(shape: Shape) -> npt.NDArray[np.float64]:
    """The keypoints ``[5, 2]`` of a shape, x and y in pixels.

    They are its centre, and its leftmost, topmost, rightmost and lowest corner. A circle has points instead of
    corners.
    """
    name = NAMES[shape.label]
    count = _CORNERS.get(name, 4)
    angle = 0 if name == "circle" else shape.angle
    turns = angle + 2 * np.pi / count * np.arange(count)
    corners = np.array([shape.x, shape.y]) + shape.radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    left, top = corners.argmin(axis=0)
    right, bottom = corners.argmax(axis=0)
    return np.vstack([[shape.x, shape.y], corners[[left, top, right, bottom]]])


@dataclass(frozen=True)
class Picture:
    """A generated picture.

    Attributes:
        pixels: ``[S, S, 3]`` uint8 RGB.
        labels: label of each object.
        masks: visible mask of each object, ``[S, S]`` bool.
        shapes: shape of each object.
    """

    pixels: npt.NDArray[np.uint8]
    labels: list[int]
    masks: list[npt.NDArray[np.bool_]]
    shapes: list[Shape]


def draw(
    rng: Generator, image_size: int, num_objects: int, radii: tuple[float, float], kinds: Sequence[int]
) -> Picture:
    """Draw a picture. Later shapes cover earlier ones.

    A pixel belongs to an object if the object covers at least half of it and no later object does. At least half of
    each object's area stays visible, so every visible object has a label.

    Args:
        rng: source of random numbers.
        image_size: S, side of the picture in pixels.
        num_objects: number of shapes; fewer are drawn if there is no room.
        radii: smallest and largest circumradius in pixels.
        kinds: indices of `NAMES` to draw. The label of an object is its index in this list.
    """
    canvas = ground(rng, image_size)
    labels: list[int] = []
    masks: list[Mask] = []
    areas: list[int] = []
    shapes: list[Shape] = []
    for _ in range(num_objects):
        label, radius = int(rng.integers(len(kinds))), rng.uniform(*radii)
        below = list(zip(masks, areas, strict=True))
        placed = _place(rng, kinds[label], radius, image_size, below)
        if placed is None:
            continue
        shape, x0, y0, alpha = placed
        h, w = alpha.shape
        patch = canvas[y0 : y0 + h, x0 : x0 + w]
        surface = fill(rng, h, w, patch.mean(axis=(0, 1)))
        patch += alpha[..., None] * (surface - patch)
        mask = np.zeros((image_size, image_size), bool)
        mask[y0 : y0 + h, x0 : x0 + w] = alpha >= 0.5
        masks = [other & ~mask for other in masks] + [mask]
        labels.append(label)
        shapes.append(shape)
        areas.append(int(mask.sum()))
    return Picture(np.rint(canvas).clip(0, 255).astype(np.uint8), labels, masks, shapes)


def _place(
    rng: Generator, label: int, radius: float, image_size: int, below: Sequence[tuple[Mask, int]]
) -> tuple[Shape, int, int, Floats] | None:
    """A shape and its coverage at a random position where it hides no other (mask, area) too much.

    None after twenty failed attempts.
    """
    for _ in range(20):
        x, y = rng.uniform(radius, image_size - radius, 2)
        shape = Shape(label, x, y, radius, rng.uniform(0, 2 * np.pi))
        x0, y0, alpha = coverage(shape, image_size)
        solid, (h, w) = alpha >= 0.5, alpha.shape
        left = [mask.sum() - (mask[y0 : y0 + h, x0 : x0 + w] & solid).sum() for mask, _ in below]
        if all(visible >= _MIN_VISIBLE * area for visible, (_, area) in zip(left, below, strict=True)):
            return shape, x0, y0, alpha
    return None
