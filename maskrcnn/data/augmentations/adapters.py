"""Transforms of torchvision's v2 and of albumentations as augmentations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from maskrcnn.data.augmentations.objects import chosen, labelled, mirrored_keypoints, remaining
from maskrcnn.data.augmentations.protocol import Others
from maskrcnn.data.dataset import Example
from maskrcnn.data.images import Pixels
from maskrcnn.data.masks import bounds, crop_to_object
from maskrcnn.errors import UserError

# Three points around the centre. A flip reverses their orientation.
_PROBE = np.array([[0.5, 0.5], [0.6, 0.5], [0.5, 0.6]])
_STILL = 1e-3  # pixels; points are returned as float32
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FromTorchvision:
    """A transform of `torchvision.transforms.v2` as an augmentation.

    The transform receives image, boxes, masks and keypoints as one sample. If it changes the geometry, the boxes of
    objects with masks are computed from the new masks. torchvision moves keypoints with an error of up to half a
    pixel.

    Args:
        transform: takes and returns ``(image, target)``. The image must stay uint8.
    """

    transform: Any

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Apply the transform. torch's random state is not changed."""
        _refuse_proposals(example, self.transform)
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        try:
            image, target = self.transform(*_as_tensors(example))
        finally:
            torch.set_rng_state(state)
        if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8 or image.shape[0] != 3:
            raise UserError(
                f"{self.transform} returns no image of uint8 [3, H, W]; leave conversion and normalisation to the model"
            )
        pixels = np.ascontiguousarray(torch.Tensor.numpy(image.as_subclass(torch.Tensor)).transpose(1, 2, 0))
        found = {key: torch.Tensor.numpy(value.as_subclass(torch.Tensor)) for key, value in target.items()}
        points = found["keypoints"].astype(np.float64) + 0.5
        return _rebuilt(example, pixels, found["labels"], found["boxes"], found["masks"], points)


def _as_tensors(example: Example) -> tuple[tv_tensors.Image, dict[str, Any]]:
    """The image and a target whose labels are the indices of the objects, which show what the transform drops."""
    size = example.image.shape[:2]
    image = tv_tensors.Image(torch.from_numpy(example.image.copy()).permute(2, 0, 1))
    target = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(example.boxes), format="XYXY", canvas_size=size),
        "masks": tv_tensors.Mask(torch.from_numpy(_full_masks(example))),
        "labels": torch.arange(len(example.boxes)),
        # torchvision flips keypoints as if they were indices of pixels.
        "keypoints": tv_tensors.KeyPoints(torch.from_numpy(_points(example) - 0.5), canvas_size=size),
    }
    return image, target


@dataclass(frozen=True)
class FromAlbumentations:
    """A transform of albumentations (``pip install 'maskrcnn[albumentations]'``) as an augmentation.

    The transform receives image, boxes, masks and keypoints as one sample and needs no ``BboxParams``. If it changes
    the geometry, the boxes of objects with masks are computed from the new masks.

    Args:
        transform: an albumentations transform or composition.
    """

    transform: Any

    def __call__(self, example: Example, rng: np.random.Generator, others: Others) -> Example:
        """Apply the transform."""
        import albumentations

        _refuse_proposals(example, self.transform)
        points = _points(example)
        whole = albumentations.Compose(
            [self.transform],
            bbox_params=albumentations.BboxParams("pascal_voc", label_fields=["numbers"], clip=True),
            keypoint_params=albumentations.KeypointParams("xy", remove_invisible=False),
            seed=int(rng.integers(2**32)),
        )
        found = whole(
            image=example.image,
            bboxes=example.boxes,
            numbers=np.arange(len(example.boxes)),
            masks=list(_full_masks(example)),
            keypoints=points - 0.5,
        )
        kept = np.asarray(found["numbers"], np.int64)
        if found["image"].dtype != np.uint8:
            raise UserError(
                f"{self.transform} returns an image of {found['image'].dtype}; leave normalisation to the model"
            )
        masks = np.array(found["masks"], np.uint8).reshape(-1, *found["image"].shape[:2])
        boxes = np.asarray(found["bboxes"], np.float64).reshape(-1, 4)
        points = np.asarray(found["keypoints"], np.float64)[:, :2] + 0.5
        return _rebuilt(example, np.ascontiguousarray(found["image"]), kept, boxes, masks[kept], points)


# --- both ---------------------------------------------------------------------------------------------------


def _refuse_proposals(example: Example, transform: Any) -> None:
    if example.proposals is not None:
        raise UserError(
            f"{type(transform).__name__} of another library cannot move given proposals; use the augmentations of "
            "maskrcnn.data.augmentations, or a model with an RPN"
        )


def _full_masks(example: Example) -> npt.NDArray[np.uint8]:
    """``[G, H, W]``; all zeros for an object without a mask."""
    size: tuple[int, int] = example.image.shape[:2]
    masks = [np.zeros(size, np.uint8) if mask is None else mask.full(*size) for mask in example.masks]
    return np.array(masks, np.uint8).reshape(-1, *size)


def _points(example: Example) -> Doubles:
    """The keypoints of all objects and three points that show a flip, ``[G * J + 3, 2]``."""
    probe = _PROBE * example.image.shape[1::-1]
    if example.keypoints is None:
        return probe
    return np.concatenate([example.keypoints[..., :2].reshape(-1, 2).astype(np.float64), probe])


def _rebuilt(
    example: Example,
    image: Pixels,
    kept: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.floating],
    masks: npt.NDArray[np.uint8],
    points: Doubles,
) -> Example:
    """Build an example from the results of a transform.

    Args:
        example: before the transform.
        image: ``[H, W, 3]`` after it.
        kept: ``[K]``, indices of the remaining objects.
        boxes: ``[K, 4]`` of these objects.
        masks: ``[K, H, W]`` of these objects.
        points: ``[G * J + 3, 2]``, see `_points`.
    """
    still = image.shape == example.image.shape and np.abs(points - _points(example)).max() < _STILL
    if still and np.array_equal(masks, _full_masks(example)[kept]):
        return chosen(replace(example, image=image), kept)
    mirrors = bool(np.linalg.det(np.diff(points[-3:], axis=0)) < 0)
    moved = replace(example, image=image)
    if example.keypoints is not None:
        places = points[:-3].reshape(*example.keypoints.shape[:2], 2)
        moved = replace(moved, keypoints=labelled(places, example.keypoints[..., 2:], image.shape[:2]))
        moved = replace(moved, keypoints=mirrored_keypoints(moved)) if mirrors else moved
    moved = chosen(moved, kept)
    pairs = zip(moved.masks, masks, strict=True)
    cropped = [None if old is None else crop_to_object(mask) for old, mask in pairs]
    limits = [image.shape[1], image.shape[0]] * 2
    new = replace(moved, boxes=boxes.clip(0, limits).astype(np.float32), masks=cropped)
    for g, mask in enumerate(new.masks):
        if mask is not None:
            new.boxes[g] = bounds(mask)
    return chosen(new, remaining(moved.masks, new))
