"""Box head: classifies regions and refines their boxes (Fast R-CNN, section 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from maskrcnn_ops import batched_nms
from torch import Tensor, nn

from maskrcnn.models import boxes as box_ops
from maskrcnn.models.losses import multiclass, smooth_l1
from maskrcnn.models.precision import full_precision
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.models.sampling import take
from maskrcnn.structures import Detections, Images, Loss, Proposals, Samples, Targets


class BoxBranch(nn.Module, ABC):
    """Losses and detections of a box head, from the scores and boxes that `predict` returns.

    Args:
        pooler: pools the features of boxes to regions ``[R, C, P, P]``.
        num_classes: K, without background.
        class_agnostic: predict one box for all classes instead of one per class.
        box_weights: factors of the deltas (dx, dy, dw, dh).
        beta: where the box loss (smooth L1) changes from quadratic to linear.
        score_threshold: keep detections with a higher score only.
        nms_iou: IoU threshold of the suppression within a class.
        num_detections: largest number of detections per image.
        num_candidates: largest number of (box, class) pairs per image that enter the suppression; None is all.
        max_log_scale: upper limit of dw and dh.
        min_size: drop detections whose width or height is below this, in pixels.
    """

    def __init__(
        self,
        pooler: RoIPooler,
        num_classes: int,
        class_agnostic: bool = False,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = 1 / 9,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        num_detections: int = 100,
        num_candidates: int | None = 4000,
        max_log_scale: float = box_ops.MAX_LOG_SCALE,
        min_size: float = 0.0,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.num_classes, self.num_boxes = num_classes, 1 if class_agnostic else num_classes
        self.box_weights, self.max_log_scale = tuple(box_weights), max_log_scale
        self.beta, self.min_size = beta, min_size
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.num_detections, self.num_candidates = num_detections, num_candidates

    def pooled_maps(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """Return the maps that the operator pools, by stride: ``features``, unless the head computes its own maps."""
        return features

    @abstractmethod
    def predict(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Classify and refine boxes.

        Args:
            features: maps by stride.
            boxes: ``[N, K, 4]`` in pixels of the network's input.
            valid: ``[N, K]`` bool.

        Returns:
            Logits ``[N, K, num_classes + 1]``, background last, and deltas ``[N, K, num_classes or 1, 4]``.
        """

    def losses(
        self, features: dict[int, Tensor], samples: Samples, targets: Targets, images: Images
    ) -> dict[str, Loss]:
        """Compute ``box_class`` (softmax cross entropy) and ``box_regression`` (smooth L1 over positives).

        Both are divided by the number of samples that are trained on.

        Args:
            features: maps by stride.
            samples: regions to train on, ``[N, K]``.
            targets: ground truth of the batch.
            images: the batch.
        """
        logits, deltas = self.predict(features, samples.boxes, samples.valid)
        objects = take(targets.boxes, samples.matched)
        wanted = box_ops.encode(objects, samples.boxes, self.box_weights)
        own = (samples.labels * samples.positive)[..., None, None].expand(-1, -1, 1, 4)
        own = own if deltas.shape[2] > 1 else torch.zeros_like(own)
        found = deltas.gather(2, own)[:, :, 0]
        learn = samples.valid if samples.hardest is None else self._hardest(logits, found, wanted, samples)
        count = learn.sum()
        return {
            "box_class": multiclass(logits.flatten(0, 1), samples.labels.flatten(), learn.flatten(), count),
            "box_regression": smooth_l1(found, wanted, samples.positive & learn, self.beta, count),
        }

    @torch.no_grad()
    def _hardest(self, logits: Tensor, found: Tensor, wanted: Tensor, samples: Samples) -> Tensor:
        """The samples of each image with the largest sum of both losses, ``[N, K]`` bool (OHEM)."""
        classes = F.cross_entropy(logits.flatten(0, 1), samples.labels.flatten(), reduction="none")
        boxes = F.smooth_l1_loss(found, wanted.to(found.dtype), reduction="none", beta=self.beta).sum(-1)
        loss = classes.view_as(boxes) + torch.where(samples.positive, boxes, 0.0)
        loss = loss.masked_fill(~samples.valid, -torch.inf)
        assert samples.hardest is not None
        rank = loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return samples.valid & (rank < samples.hardest)

    def detect(self, features: dict[int, Tensor], regions: Proposals, images: Images) -> Detections:
        """Detect objects in regions: score, decode per class, suppress within a class, and keep the best D.

        Args:
            features: maps by stride.
            regions: proposals ``[N, K]``.
            images: the batch, to whose sizes boxes are clipped.

        Returns:
            Detections ``[N, D]``, without masks.
        """
        logits, deltas = self.predict(features, regions.boxes, regions.valid)
        scores = logits.softmax(-1)[..., :-1]  # [N, K, num_classes]
        boxes = box_ops.decode(deltas, regions.boxes[:, :, None], self.box_weights, self.max_log_scale)
        boxes = box_ops.clip(boxes, images.sizes).expand(*scores.shape, 4)
        large = (box_ops.area(boxes) > 0) & (boxes[..., 2:] - boxes[..., :2] >= self.min_size).all(-1)
        usable = (scores > self.score_threshold) & regions.valid[..., None] & large
        flat = scores.masked_fill(~usable, -torch.inf).flatten(1)
        best, index = flat.topk(min(self.num_candidates or flat.shape[1], flat.shape[1]))  # [N, T]
        boxes, labels = take(boxes.flatten(1, 2), index), index % self.num_classes
        keep = batched_nms(boxes, best, labels, self.nms_iou)
        best = best.masked_fill(~keep, -torch.inf)
        best, order = best.topk(min(self.num_detections, best.shape[1]))
        valid = best > -torch.inf
        return Detections(
            take(boxes, order), best.masked_fill(~valid, 0.0), labels.gather(1, order), valid, masks=None
        )


class BoxHead(BoxBranch):
    """Runs a trunk on pooled regions and predicts class scores and one box per class.

    Args:
        trunk: ``[R, C, P, P]`` to ``[R, D]`` or ``[R, D, h, w]`` (averaged over h, w). Its attribute ``out_channels``
            is D.
        background_box: also predict a box for background, which is not used (torchvision's layer has it).

    The other arguments are those of `BoxBranch`.
    """

    def __init__(
        self,
        pooler: RoIPooler,
        trunk: nn.Module,
        num_classes: int,
        class_agnostic: bool = False,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = 1 / 9,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        num_detections: int = 100,
        num_candidates: int | None = 4000,
        max_log_scale: float = box_ops.MAX_LOG_SCALE,
        min_size: float = 0.0,
        background_box: bool = False,
    ) -> None:
        super().__init__(
            pooler,
            *(num_classes, class_agnostic, box_weights, beta, score_threshold, nms_iou),
            *(num_detections, num_candidates, max_log_scale, min_size),
        )
        self.trunk = trunk
        dim: int = trunk.out_channels  # type: ignore[assignment]
        self.logits = nn.Linear(dim, num_classes + 1)
        self.deltas = nn.Linear(dim, 4 * (self.num_boxes + background_box))
        for layer, std in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def predict(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """See `BoxBranch.predict`."""
        regions = self.pooler.regions(self.pooled_maps(features), boxes, valid)
        x = self.trunk(regions.pooled)
        if x.dim() == 4:
            x = x.mean(dim=(2, 3))
        logits, deltas = (regions.spread(full_precision(layer(x))) for layer in (self.logits, self.deltas))
        return logits, deltas.unflatten(-1, (-1, 4))[:, :, : self.num_boxes]
