"""Converts data sets that return torchvision's ``(image, target)`` to a `Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset, Example, Floats, coco_entry
from maskrcnn.data.images import Pixels
from maskrcnn.data.masks import MaskBitmap, crop_to_object
from maskrcnn.errors import UserError

Doubles = npt.NDArray[np.float64]
Size = tuple[int, int]
_UNKNOWN = -1  # number of objects of an image that was not read yet
_OVERHANG = 0.5  # pixels by which a rounded box may extend beyond the image
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@runtime_checkable
class Samples(Protocol):
    """A map-style data set whose items are ``(image, target)``, as torchvision's detectors take them.

    ``image`` is a tensor ``[3, H, W]`` (uint8, or floating point in 0..1), a PIL image, or an array ``[H, W, 3]``
    uint8. ``target`` is a dictionary with

    * ``boxes`` ``[G, 4]``: x1, y1, x2, y2 in pixels, with x1 < x2 and y1 < y2;
    * ``labels`` ``[G]``: integers 1 .. num_classes;
    * ``masks`` ``[G, H, W]``: one per box, 0 or 1 (needed by a model with a mask head);
    * ``iscrowd`` ``[G]``: regions to ignore (optional);
    * ``image_id``: an integer (optional; the default is the index);
    * ``area`` ``[G]``: sizes for COCO's APs, APm and APl (optional; the default is the area of the mask or box).
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def adapt(samples: Dataset | Samples, num_classes: int, classes: Sequence[str] | None = None) -> Dataset:
    """Convert ``samples`` to a `Dataset`. A `Dataset` is returned unchanged.

    Args:
        samples: see `Samples`.
        num_classes: number of the model's classes, without background.
        classes: names of labels 1, 2, ...; None names them ``class 1``, ``class 2``, ...

    Raises:
        UserError: the data set is empty, or its first sample is invalid.
    """
    return samples if isinstance(samples, Dataset) else TorchvisionDataset(samples, num_classes, classes)


class TorchvisionDataset(Dataset):
    """`Samples` as a `Dataset`. Every sample is checked when it is read; the first one is read immediately.

    Images keep the order of the samples. Their sizes are unknown before they are read. Images of similar aspect are
    therefore batched together only if ``samples.get_height_and_width(index)`` exists, which is torchvision's
    convention.

    Args:
        samples: see `Samples`.
        num_classes: number of the model's classes, without background.
        classes: names of labels 1, 2, ...; None names them ``class 1``, ``class 2``, ...

    Raises:
        UserError: the data set is empty, or its first sample is invalid.
    """

    def __init__(self, samples: Samples, num_classes: int, classes: Sequence[str] | None = None) -> None:
        names = [f"class {label}" for label in range(1, num_classes + 1)] if classes is None else classes
        if len(names) != num_classes:
            raise UserError(f"classes has {len(names)} names, but the model has num_classes={num_classes}")
        if not isinstance(samples, Samples):
            raise UserError(
                f"a data set needs __len__ and __getitem__, but {type(samples).__name__} lacks them; it must be "
                "map-style: samples[index] is (image, target)"
            )
        if not len(samples):
            raise UserError(f"the data set {type(samples).__name__} is empty: its length is 0")
        self.samples, self.num_classes = samples, num_classes
        self.categories = [{"id": label, "name": str(name)} for label, name in enumerate(names, start=1)]
        self.on_corrupt_image, self.report, self.images = "stop", list[str](), Path()
        self.image_ids = np.arange(len(samples))
        self.num_objects = np.full(len(samples), _UNKNOWN)
        self.num_crowds = self.num_keypoints = 0
        self.mirror_keypoints = self.proposals = None
        size_of = getattr(samples, "get_height_and_width", None)
        sizes = [(1, 1) if size_of is None else size_of(index) for index in range(len(samples))]
        self.sizes = np.array(sizes, np.int64)
        self._truth: dict[str, Any] | None = None
        self.has_masks = False  # until the first sample is read
        self.has_masks = self._read(0)[2]

    def __len__(self) -> int:
        return len(self.samples)

    def image_id(self, index: int) -> int:
        """The id of an image. The first call reads all samples."""
        image_id: int = self.ground_truth()["images"][index]["id"]
        return image_id

    def labels(self, index: int) -> npt.NDArray[np.int64]:
        """The labels of a sample's objects, without crowds. This reads the sample."""
        example = self.read(index)
        return example.labels[~example.crowd]

    def read(self, index: int) -> Example:
        """Read an image and its objects. Raises UserError with the index if the sample is invalid."""
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[Example, Doubles, bool]:
        """A sample, the areas of its objects ``[G]``, and whether it has masks."""
        sample = self.samples[index]
        try:
            if not isinstance(sample, tuple | list) or len(sample) != 2 or not isinstance(sample[1], dict):
                found = type(sample).__name__
                raise _Fault(f"expected a pair (image, target) with a dictionary as target, found {found}")
            pixels, target = _pixels(sample[0]), sample[1]
            boxes = _boxes(target, *pixels.shape[:2])
            labels = _labels(target, len(boxes), self.num_classes)
            masks = _masks(target, len(boxes), pixels.shape[:2], self.has_masks)
            crowd = _numbers(target, "iscrowd", len(boxes), np.zeros(len(boxes))) != 0
            example = Example(pixels, _image_id(target, index), boxes, labels, crowd, masks)
            return example, _areas(target, example), target.get("masks") is not None
        except _Fault as error:
            raise UserError(f"sample {index} of the data set: {error}") from error

    def ground_truth(self) -> dict[str, Any]:
        """The annotations in COCO's format. The first call reads all samples."""
        if self._truth is None:
            self._truth = self._as_coco()
        return self._truth

    def _as_coco(self) -> dict[str, Any]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        seen: dict[int, int] = {}
        indices = range(len(self.samples))
        for index in track(indices, "reading ground truth", console=console, disable=not console.is_terminal):
            example, areas, _ = self._read(index)
            if (before := seen.setdefault(example.image_id, index)) != index:
                raise UserError(
                    f"sample {index} of the data set: its image_id {example.image_id} is that of sample {before}, too"
                )
            size = height, width = example.image.shape[:2]
            name = {"id": example.image_id, "file_name": f"sample {index}", "height": height, "width": width}
            images.append(name)
            for g, (mask, area) in enumerate(zip(example.masks, areas.tolist(), strict=True)):
                entry = {**coco_entry(example, g, mask, size), "area": area}
                annotations.append({"id": len(annotations) + 1, **entry})
        return {"images": images, "annotations": annotations, "categories": self.categories}


class _Fault(Exception):
    """What is wrong with a sample."""


def _pixels(image: Any) -> Pixels:
    """``[H, W, 3]`` uint8."""
    if isinstance(image, torch.Tensor):
        return _pixels_of_tensor(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            found = f"{image.dtype} {list(image.shape)}"
            raise _Fault(f"an image array is uint8 [H, W, 3], found {found}")
        return np.ascontiguousarray(image)
    if hasattr(image, "convert"):  # a PIL image
        return np.array(image.convert("RGB"))
    raise _Fault(
        f"the image is a {type(image).__name__}; expected a tensor [3, H, W], a PIL image or an array [H, W, 3]"
    )


def _pixels_of_tensor(image: torch.Tensor) -> Pixels:
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise _Fault(f"an image tensor is [3, H, W], found {list(image.shape)}")
    if image.is_floating_point():
        low, high = (float(value) for value in image.aminmax())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise _Fault(
                f"a floating point image has values in 0..1, found {low:g} to {high:g}; leave the normalisation to "
                "the model, or give uint8 in 0..255"
            )
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise _Fault(f"an image is uint8, or floating point in 0..1, found {image.dtype}")
    return np.ascontiguousarray(torch.Tensor.numpy(image.detach().cpu()).transpose(1, 2, 0))


def _tensor(target: dict[str, Any], key: str) -> torch.Tensor:
    if key not in target:
        keys = ", ".join(map(str, target)) or "nothing"
        raise _Fault(f"its target has no {key!r}; it has {keys}")
    try:
        return torch.as_tensor(target[key]).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _Fault(f"{key} cannot be read as a tensor ({error})") from error


def _boxes(target: dict[str, Any], height: int, width: int) -> Floats:
    """``[G, 4]`` float32 within the image."""
    given = _tensor(target, "boxes")
    of_torchvision = getattr(target["boxes"], "format", None)  # BoundingBoxes have one
    kind = getattr(of_torchvision, "value", "XYXY")
    if kind != "XYXY":
        raise _Fault(f"boxes are x1, y1, x2, y2 (XYXY), found the format {kind}")
    if given.dtype == torch.bool or given.is_complex():
        raise _Fault(f"boxes are numbers, found {given.dtype}")
    if not given.numel():
        return np.zeros((0, 4), np.float32)
    if given.dim() != 2 or given.shape[1] != 4:
        raise _Fault(f"boxes are [G, 4], found {list(given.shape)}")
    boxes: Floats = torch.Tensor.numpy(given.float())
    for g, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        box = f"box {g} (x1, y1, x2, y2) = ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not np.isfinite(boxes[g]).all():
            raise _Fault(f"{box} is not finite")
        if not (x1 < x2 and y1 < y2):
            raise _Fault(f"{box} is empty; expected x1 < x2 and y1 < y2 (is it x, y, width, height?)")
        if min(x1, y1) < -_OVERHANG or x2 > width + _OVERHANG or y2 > height + _OVERHANG:
            raise _Fault(f"{box} leaves the image of width {width} and height {height}")
    return np.ascontiguousarray(boxes.clip(0, [width, height, width, height]), np.float32)


def _labels(target: dict[str, Any], count: int, num_classes: int) -> npt.NDArray[np.int64]:
    """``[G]`` in ``0 .. num_classes - 1``."""
    given = _tensor(target, "labels")
    if given.shape != (count,):
        raise _Fault(f"labels are [{count}], one for each box, found {list(given.shape)}")
    if not count:
        return np.zeros(0, np.int64)
    if given.dtype not in _INTEGERS:
        raise _Fault(f"labels are integers, found {given.dtype}")
    if (least := int(given.min())) < 1:
        meaning = "label 0 is the background; count the classes from 1" if least == 0 else "labels begin at 1"
        raise _Fault(f"label {least}: {meaning}")
    if (most := int(given.max())) > num_classes:
        raise _Fault(
            f"label {most}, but the model has num_classes={num_classes} (without background, other than torchvision's)"
        )
    return np.asarray(torch.Tensor.numpy(given.long()) - 1)


def _masks(target: dict[str, Any], count: int, size: Size, expected: bool) -> list[MaskBitmap | None]:
    """G bitmaps."""
    if target.get("masks") is None:
        if expected:
            raise _Fault("its target has no 'masks', but that of sample 0 has")
        return [None] * count
    given = _tensor(target, "masks")
    if given.shape != (count, *size) and not (given.numel() == count == 0):
        raise _Fault(f"masks are [G, H, W] = {[count, *size]} by boxes and image, found {list(given.shape)}")
    if count and given.dtype != torch.bool and given.dtype not in _INTEGERS:
        raise _Fault(f"masks are bool or integers, found {given.dtype}; threshold them first")
    masks = [crop_to_object(mask) for mask in torch.Tensor.numpy(given)] if count else []
    if None in masks:
        raise _Fault(f"mask {masks.index(None)} is empty; leave the object out")
    return masks


def _numbers(target: dict[str, Any], key: str, count: int, default: Doubles) -> Doubles:
    """An optional number for each object."""
    if target.get(key) is None:
        return default
    given = _tensor(target, key)
    if given.shape != (count,):
        raise _Fault(f"{key} is [{count}], one for each box, found {list(given.shape)}")
    return np.asarray(torch.Tensor.numpy(given.double()))


def _image_id(target: dict[str, Any], default: int) -> int:
    given = target.get("image_id")
    if given is None:
        return default
    try:
        number = torch.as_tensor(given).reshape(-1).tolist()
    except (TypeError, ValueError, RuntimeError):
        number = []
    if len(number) != 1 or number[0] != int(number[0]):
        raise _Fault(f"image_id is an integer, found {given!r}")
    return int(number[0])


def _areas(target: dict[str, Any], example: Example) -> Doubles:
    """Area of each object in square pixels: as given, else of its mask, else of its box."""
    boxes = (example.boxes[:, 2:] - example.boxes[:, :2]).astype(np.float64).prod(axis=1)
    pairs = zip(example.masks, boxes, strict=True)
    measured = np.array([area if mask is None else float(mask.bits.sum()) for mask, area in pairs])
    return _numbers(target, "area", len(boxes), measured)
