"""Transforms an image and its objects to the network's input, in training and in testing.

The geometry is an axis-aligned affine map from the network's input back to the original image. Masks are not changed:
they stay bitmaps of the original image, and the map says where to read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from maskrcnn.data.augmentations import as_list
from maskrcnn.data.augmentations.geometry import check_probability, flipped
from maskrcnn.data.augmentations.objects import chosen, labelled, mirrored_keypoints, visible
from maskrcnn.data.augmentations.protocol import NO_OTHERS, Augmentation, Others, apply
from maskrcnn.data.canvas import Drawn, Normalise, Picture
from maskrcnn.data.colour import ColourJitter
from maskrcnn.data.dataset import Example, Floats
from maskrcnn.data.masks import MaskBitmap, bounds, crop_to_object
from maskrcnn.errors import UserError
from maskrcnn.structures import Preprocessing, Resampling

Window = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Sample:
    """An image with G objects, in pixels of the network's input.

    Attributes:
        image_id: id in the data set.
        picture: the image, drawn later as ``[H, W, 3]``.
        boxes: ``[G, 4]`` float32.
        labels: ``[G]`` int64.
        crowd: ``[G]`` bool.
        masks: G bitmaps of the *original* image; None for an object without a mask.
        to_bitmap: ``[G, 4]`` float32, see `MaskBitmaps`.
        keypoints: ``[G, J, 3]`` float32 (x, y, visibility), or None.
        original_size: (height, width) before resizing: of the image file, unless augmentations changed it.
        proposals: ``[P, 5]`` float32 boxes and scores, or None.
    """

    image_id: int
    picture: Picture
    boxes: Floats
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    masks: list[MaskBitmap | None]
    to_bitmap: Floats
    keypoints: Floats | None
    original_size: tuple[int, int]
    proposals: Floats | None = None

    @property
    def pixels(self) -> Drawn:
        """The image ``[H, W, 3]`` RGB: uint8, or normalised float32 with ``resampling=float``.

        It is drawn at every access.
        """
        return self.picture.pixels()


@dataclass(frozen=True)
class Placement:
    """Position of the network's input in the original image.

    Attributes:
        size: (height, width) of the input.
        scale: (x, y) of ``original = input * scale + shift``. A mirrored axis has a negative scale.
        shift: (x, y), see ``scale``.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    shift: tuple[float, float]

    def boxes(self, boxes: Floats) -> Floats:
        """Transform boxes ``[G, 4]`` of the original image to the input, clipped at its edges."""
        corners = (boxes.reshape(-1, 2, 2).astype(np.float64) - self.shift) / self.scale
        ordered = np.sort(corners, axis=1).reshape(-1, 4)
        return ordered.clip(0, [*self.size[::-1]] * 2).astype(np.float32)

    def points(self, points: Floats) -> Floats:
        """Transform points with visibility ``[..., 3]`` to the input. Points outside become zeros."""
        moved = (points[..., :2].astype(np.float64) - self.shift) / self.scale
        return labelled(moved, points[..., 2:], self.size)

    def proposals(self, rows: Floats) -> Floats:
        """Transform boxes with scores ``[P, 5]`` to the input. Boxes outside are dropped."""
        moved = np.concatenate([self.boxes(rows[:, :4]), rows[:, 4:]], axis=1)
        return np.ascontiguousarray(moved[visible(moved)])

    def window(self) -> tuple[float, float, float, float]:
        """The visible part of the original image, ``x1, y1, x2, y2``."""
        (sx, sy), (tx, ty), (h, w) = self.scale, self.shift, self.size
        return min(tx, tx + sx * w), min(ty, ty + sy * h), max(tx, tx + sx * w), max(ty, ty + sy * h)

    def to_bitmap(self, masks: Sequence[MaskBitmap | None]) -> Floats:
        """``(scale_x, scale_y, shift_x, shift_y)`` from the input into the bitmap of each mask, ``[G, 4]``."""
        out = np.tile(np.array([*self.scale, *self.shift]), (len(masks), 1))
        out[:, 2:] -= np.array([(m.x0, m.y0) if m else (0, 0) for m in masks]).reshape(-1, 2)
        return out.astype(np.float32)


@dataclass(frozen=True)
class Transform:
    """Augments, resizes, crops and flips an image, and changes its colours.

    Args:
        short_side: length of the shorter side in pixels. From a list, one is drawn for each image (multi-scale
            training). None keeps the size.
        max_size: upper limit of the longer side in pixels, which shrinks the image further; None is no limit.
        scale_jitter: (low, high). Large-scale jitter (Ghiasi et al. 2021): the image is resized to fit the crop times
            a factor from this range. It replaces ``short_side``.
        crop: (height, width) of a random window, cut after resizing. Smaller images are not cropped.
        horizontal_flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        colour: see `ColourJitter`; applied after ``augmentations``.
        flip_keypoints: for each keypoint, the index of its counterpart in a mirror image (left and right swapped).
            None derives it from the names of the data set's keypoints.
        resampling: see `Preprocessing`; ``float`` needs ``pixel_mean`` and ``pixel_std``.
        pixel_mean: mean of each channel in 0..255.
        pixel_std: standard deviation of each channel in 0..255.
        augmentations: random changes of the image before it is resized: the name of a preset (``light``, ``strong``),
            or a list of augmentations, names of presets, and transforms of torchvision's v2 and of albumentations; see
            `maskrcnn.data.augmentations`.

    Raises:
        UserError: settings contradict each other.
    """

    short_side: int | Sequence[int] | None = None
    max_size: int | None = None
    scale_jitter: Sequence[float] | None = None
    crop: Sequence[int] | None = None
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    colour: ColourJitter | None = None
    flip_keypoints: Sequence[int] | None = None
    resampling: Resampling = "area"
    pixel_mean: Sequence[float] | None = None
    pixel_std: Sequence[float] | None = None
    augmentations: Sequence[Augmentation | str] | str | None = None

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> Transform:
        """The transform for testing a model with this preprocessing."""
        names = [field.name for field in fields(Preprocessing) if field.name != "size_divisor"]
        return cls(**{name: getattr(preprocessing, name) for name in names})

    def __post_init__(self) -> None:
        if self.resampling == "float" and (self.pixel_mean is None or self.pixel_std is None):
            raise UserError("resampling=float normalises before it resizes: give pixel_mean and pixel_std")
        if self.scale_jitter is not None and (self.crop is None or self.short_side is not None):
            raise UserError("scale_jitter fits the image into the crop: set crop, and short_side to null")
        check_probability(horizontal_flip=self.horizontal_flip, vertical_flip=self.vertical_flip)
        for name, pair in (("crop", self.crop), ("scale_jitter", self.scale_jitter)):
            if pair is not None and (len(pair) != 2 or min(pair) <= 0):
                raise UserError(f"{name} must be 2 positive numbers, not {list(pair)}")
        _ = self._augmentations  # raises an error for invalid entries

    @cached_property
    def _augmentations(self) -> tuple[Augmentation, ...]:
        return as_list(self.augmentations)

    def __call__(self, example: Example, rng: np.random.Generator, others: Others = NO_OTHERS) -> Sample:
        """Transform an image to the network's input. Objects that a crop removes are dropped.

        Args:
            example: the image with its objects.
            rng: source of random numbers.
            others: the training set, for augmentations that mix images.
        """
        example = self.augmented(example, rng, others)
        original: tuple[int, int] = example.image.shape[:2]
        size = self.resized(original, rng)
        window = self._window(size, rng)
        mirror = rng.random() < self.horizontal_flip, rng.random() < self.vertical_flip
        place = _placement(original, size, window, mirror)
        # Change colours and flip before resizing, because the resized image has more pixels.
        pixels = example.image if self.colour is None else self.colour(example.image, rng)
        points = mirrored_keypoints(example) if mirror[0] != mirror[1] else example.keypoints
        shown = _mirrored(window, size, *mirror)
        picture = Picture(flipped(pixels, *mirror), size, shown, self._normalise)
        sample = Sample(
            image_id=example.image_id,
            picture=picture,
            boxes=place.boxes(example.boxes),
            labels=example.labels,
            crowd=example.crowd,
            masks=example.masks,
            to_bitmap=place.to_bitmap(example.masks),
            keypoints=None if points is None else place.points(points),
            original_size=original,
            proposals=None if example.proposals is None else place.proposals(example.proposals),
        )
        return sample if window[2:] == size else _without_unseen(sample, example.boxes, place)

    def augmented(self, example: Example, rng: np.random.Generator, others: Others = NO_OTHERS) -> Example:
        """Apply ``augmentations`` only, without resizing. ``rng`` is not advanced."""
        ordered = replace(others, read=lambda index: self._ordered(others.read(index)))
        return apply(self._augmentations, self._ordered(example), rng, ordered)

    def _ordered(self, example: Example) -> Example:
        """The example with ``flip_keypoints`` as the order of its keypoints in a mirror image."""
        if self.flip_keypoints is None or example.keypoints is None:
            return example
        return replace(example, mirror_keypoints=self.flip_keypoints)

    @property
    def _normalise(self) -> Normalise | None:
        if self.resampling != "float" or self.pixel_mean is None or self.pixel_std is None:
            return None
        return Normalise(tuple(self.pixel_mean), tuple(self.pixel_std))

    def resized(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """(height, width) of an image after resizing, before a crop.

        Args:
            size: (height, width) of the image.
            rng: draws the shorter side or the scale.
        """
        scale = 1.0
        if self.scale_jitter is not None and self.crop is not None:
            low, high = self.scale_jitter
            scale = rng.uniform(low, high) * min(self.crop[0] / size[0], self.crop[1] / size[1])
        elif self.short_side is not None:
            sides = [self.short_side] if isinstance(self.short_side, int) else list(self.short_side)
            scale = sides[int(rng.integers(len(sides)))] / min(size)
        if self.max_size is not None:
            scale = min(scale, self.max_size / max(size))
        nearest = int if self.resampling == "float" else round
        return max(nearest(size[0] * scale), 1), max(nearest(size[1] * scale), 1)

    def _window(self, size: tuple[int, int], rng: np.random.Generator) -> Window:
        """(top, left, height, width) of the crop in the resized image."""
        if self.crop is None:
            return 0, 0, *size
        height, width = min(self.crop[0], size[0]), min(self.crop[1], size[1])
        top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        return top, left, height, width


def _placement(
    original: tuple[int, int], size: tuple[int, int], window: Window, mirror: tuple[bool, bool]
) -> Placement:
    """The map from a resized (to ``size``), cropped (to ``window``) and flipped (x, y) image back to the original."""
    top, left, height, width = window
    scale, shift = [], []
    for axis, (begin, length) in enumerate(((left, width), (top, height))):
        ratio = original[1 - axis] / size[1 - axis]
        scale.append(-ratio if mirror[axis] else ratio)
        shift.append(ratio * (begin + length if mirror[axis] else begin))
    return Placement((height, width), (scale[0], scale[1]), (shift[0], shift[1]))


def _mirrored(window: Window, size: tuple[int, int], horizontally: bool, vertically: bool) -> Window:
    """The window in the flipped image of ``size``."""
    top, left, height, width = window
    top = size[0] - top - height if vertically else top
    return top, size[1] - left - width if horizontally else left, height, width


# --- after a crop -------------------------------------------------------------------------------------------


def _without_unseen(sample: Sample, original_boxes: Floats, place: Placement) -> Sample:
    """The sample with boxes reduced to the part that a crop left visible, and without invisible objects."""
    boxes = sample.boxes.copy()
    for g, mask in enumerate(sample.masks):
        if mask is not None and not sample.crowd[g]:
            boxes[g] = place.boxes(_visible_box(original_boxes[g], mask, place.window())[None])[0]
    return chosen(replace(sample, boxes=boxes), np.flatnonzero(visible(boxes)))


def _visible_box(box: Floats, mask: MaskBitmap, window: tuple[float, float, float, float]) -> Floats:
    """The box ``[4]`` of an object's part inside the window, in original pixels; of zero size if nothing is visible.

    A box may deliberately differ a little from its mask's bounds (sub-pixel polygons, VOC's void border). Each side
    moves by as much as cropping moves the mask's bound, so a side that is not cropped stays where it is.
    """
    whole, low, high = bounds(mask), np.array(window[:2]), np.array(window[2:])
    if (whole[:2] >= low).all() and (whole[2:] <= high).all():
        return box
    x0, y0 = np.maximum(np.floor(low) - whole[:2], 0).astype(int)
    x1, y1 = np.maximum(np.ceil(high) - whole[:2], 0).astype(int)
    seen = crop_to_object(mask.bits[y0:y1, x0:x1], mask.x0 + int(x0), mask.y0 + int(y0))
    if seen is None:
        return np.zeros(4, np.float32)
    limits = np.tile(low, 2), np.tile(high, 2)
    return np.asarray(box.clip(*limits) + (bounds(seen).clip(*limits) - whole.clip(*limits)), np.float32)
