"""How a trained model reads one of its detections, and how its output changes when the box moves by half a cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from maskrcnn_ops import PRESETS, Switches, masks_to_rle
from maskrcnn_ops.geometry import choose_levels
from torch import Tensor

from maskrcnn.data.canvas import Canvas, batch_images
from maskrcnn.data.images import Pixels
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.models import boxes as box_ops
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.heads.box import BoxBranch
from maskrcnn.models.heads.mask import MaskHead
from maskrcnn.models.heads.position_sensitive import VoteHead, by_position
from maskrcnn.models.protocols import RoIOp
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.prediction.batching import prepared
from maskrcnn.prediction.detections import full_mask
from maskrcnn.structures import Images

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """The output of a head for one box.

    Attributes:
        box: x1, y1, x2, y2 of the box, in pixels of the image.
        pooled: ``[C, P, P]``, the pooled features.
        mask: ``[M, M]`` probabilities within the box; None for a model without a mask head.
        area: ``[H, W]``, the pixels of the image inside the pasted mask, or inside the refined box without a mask.
    """

    box: tuple[float, ...]
    pooled: Tensor
    mask: Tensor | None
    area: Bits


@dataclass(frozen=True)
class Explanation:
    """One detection, and the outputs of the unchanged model with several RoI operators.

    Attributes:
        label: class of the detection, 0..K-1.
        score: score of the detection.
        stride: stride of the pooled map, in pixels of the network's input.
        trained: output with the model's own operator.
        by_operator: outputs for the detected box and for the box moved right by half a cell.
        channels: pooled channels to show, the one that varies most within the box first. For an R-FCN model it is
            the score map of the class.
    """

    label: int
    score: float
    stride: int
    trained: Answer
    by_operator: dict[str, tuple[Answer, Answer]]
    channels: list[int]

    def overlaps(self) -> dict[str, float]:
        """IoU of the two masks of each operator, or of the two refined boxes."""
        return {name: _iou(*(answer.area for answer in pair)) for name, pair in self.by_operator.items()}


@torch.no_grad()
def explain_detection(
    model: MaskRCNN,
    picture: Pixels,
    transform: Transform,
    size_divisor: int,
    index: int,
    operators: Mapping[str, RoIOp],
    device: torch.device,
) -> Explanation:
    """Pool one detection of an image with every operator, as detected and moved right by half a cell.

    Args:
        model: a detector with an RPN and a box head.
        picture: RGB ``[H, W, 3]`` uint8.
        transform: prepares a picture for the network.
        size_divisor: the sides of the network's input are multiples of it.
        index: rank of the detection by falling score, from 0.
        operators: RoI operators by name. A position-sensitive head uses their position-sensitive forms.
        device: the model's device.

    Raises:
        UserError: there is no such detection, or the model has no RPN or box head.
    """
    if model.rpn is None or model.box_head is None:
        raise UserError(
            "detection= needs a model that finds objects by itself; this one has no RPN or no box head"
        )
    images = batch_images([prepared(picture, transform).picture], Canvas(size_divisor)).to(device)
    features = model.features(images)
    found = model.detect_boxes(features, images)
    count = int(found.valid.sum())
    if not 0 <= index < count:
        raise UserError(
            f"detection={index}: the model finds {count} objects in this image; expected a number below that, from 0"
        )
    box, label = found.boxes[0, index], int(found.labels[0, index])
    head = model.mask_head or model.box_head
    scale = torch.tensor(picture.shape[1::-1]) / images.sizes[0].cpu().flip(0)
    reader = _Reader(head, features, images, label, scale.repeat(2), picture.shape[:2])
    stride = _stride(head.pooler, features, box)
    trained = reader.answer(head.pooler.operator, box)
    moved = box + box.new_tensor([stride / 2, 0, stride / 2, 0])
    answers = {name: (reader.answer(op, box), reader.answer(op, moved)) for name, op in operators.items()}
    channels = trained.pooled.var((1, 2)).argsort(descending=True).tolist()
    if isinstance(head, VoteHead):
        channels = [label]
    return Explanation(label, float(found.scores[0, index]), stride, trained, answers, channels)


@dataclass(frozen=True)
class _Reader:
    """A head and the features of one image.

    ``scale`` ``[4]`` is the number of pixels of the image per pixel of the network's input, for box coordinates.
    """

    head: BoxBranch | MaskHead
    features: dict[int, Tensor]
    images: Images
    label: int
    scale: Tensor
    size: tuple[int, int]

    def answer(self, operator: RoIOp, box: Tensor) -> Answer:
        """Compute the head's output for one box.

        Args:
            operator: the RoI operator to pool with.
            box: ``[4]``, in pixels of the network's input.
        """
        boxes, valid = box[None, None], torch.ones(1, 1, dtype=torch.bool, device=box.device)
        with _pooling_by(self.head, operator) as pooler:
            if isinstance(self.head, MaskHead):
                pooled = pooler(self.features, boxes, valid)[0]
                labels = torch.full((1, 1), self.label, device=box.device)
                mask = self.head.masks(self.features, boxes, labels, valid)[0, 0].cpu()
                area = self._pasted(mask, box)
            else:
                pooled, mask = pooler(self.head.pooled_maps(self.features), boxes, valid)[0], None
                area = self._filled(self._refined(self.head, boxes, valid))
        return Answer(tuple((box.cpu() * self.scale).tolist()), pooled.float().cpu(), mask, area)

    def _refined(self, head: BoxBranch, boxes: Tensor, valid: Tensor) -> Tensor:
        deltas = head.predict(self.features, boxes, valid)[1]
        own = deltas[:, :, self.label if deltas.shape[2] > 1 else 0]
        return box_ops.decode(own, boxes, head.box_weights, head.max_log_scale)[0, 0]

    def _pasted(self, mask: Tensor, box: Tensor) -> Bits:
        (rle,) = masks_to_rle(mask[None].float(), (box.cpu() * self.scale)[None], *self.size)
        return full_mask(dict(rle), self.size)

    def _filled(self, box: Tensor) -> Bits:
        """Pixels whose centre is inside the box."""
        x1, y1, x2, y2 = (box.cpu() * self.scale).tolist()
        y, x = (np.arange(side) + 0.5 for side in self.size)
        return np.outer((y > y1) & (y < y2), (x > x1) & (x < x2))


@contextmanager
def _pooling_by(head: BoxBranch | MaskHead, operator: RoIOp) -> Iterator[RoIPooler]:
    """Give the head another operator for a ``with`` block, in position-sensitive form if the head needs it."""
    own = head.pooler
    pooler = RoIPooler(operator, own.output_size, own.max_stride)
    head.pooler = by_position(pooler) if getattr(own.operator, "position_sensitive", False) else pooler
    try:
        yield head.pooler
    finally:
        head.pooler = own


def _stride(pooler: RoIPooler, features: dict[int, Tensor], box: Tensor) -> int:
    """Stride of the map that a box is pooled from. Operators outside the family are assumed to choose like RoIAlign."""
    strides = sorted(stride for stride in features if stride <= pooler.max_stride)
    operator = pooler.operator if isinstance(pooler.operator, Switches) else PRESETS["align"]
    return strides[int(choose_levels(box[None].float(), [1 / stride for stride in strides], operator))]


def _iou(a: Bits, b: Bits) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
