"""Region proposal network: features -> proposals, and its loss (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from maskrcnn_ops import batched_nms
from torch import Tensor, nn

from maskrcnn import boxes as box_ops
from maskrcnn.models.anchors import Anchors
from maskrcnn.models.losses import binary, full_precision, smooth_l1
from maskrcnn.models.matching import match, take
from maskrcnn.sampling import sample
from maskrcnn.structures import Loss, Proposals, Targets

SAMPLING_STREAM = 1


class _Levels(NamedTuple):
    """By level, smallest stride first: logits ``[N, A_l]``, deltas ``[N, A_l, 4]``, anchors ``[A_l, 4]``."""

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]


class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and box deltas at every place; the same weights at every level."""

    def __init__(self, in_channels: int, anchors_per_place: int, num_convs: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in range(num_convs)
        )
        self.logits = nn.Conv2d(in_channels, anchors_per_place, 1)
        self.deltas = nn.Conv2d(in_channels, 4 * anchors_per_place, 1)
        for conv in (*self.convs, self.logits, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, C, H, W]`` to logits ``[N, H*W*A]`` and deltas ``[N, H*W*A, 4]``, ordered (y, x, anchor)."""
        for conv in self.convs:
            feature = F.relu(conv(feature), inplace=True)
        logits = self.logits(feature).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(feature).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4)
        return logits, deltas


def best(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The ``most`` highest ``scores`` ``[N, A]`` (or all) and their places, by falling score.

    In a graph made for images of any size it is always ``most``: places beyond the last are 0, of score -inf.
    """
    if not torch.compiler.is_exporting():
        return scores.topk(min(most, scores.shape[1]))
    padding = scores.new_full((scores.shape[0], most), -torch.inf)
    top, index = torch.cat([scores, padding], 1).topk(most)
    return top, torch.where(top > -torch.inf, index, 0)


class RPN(nn.Module):
    """Proposals from anchors, with the released code's sampling and suppression.

    in_channels: of every map. positive_iou, negative_iou: an anchor is positive at or above the first (or when it is
    the best of an object), negative below the second. num_samples, positive_fraction: anchors per image that enter the
    loss. pre_nms_*: proposals kept per level before, post_nms_*: per image after suppression at ``nms_iou``.
    min_size: proposals narrower or lower than this (pixels) are dropped. beta: smooth L1's.
    """

    def __init__(
        self,
        in_channels: int,
        anchors: Anchors,
        num_convs: int = 1,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        num_samples: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_train: int = 2000,
        post_nms_train: int = 2000,
        pre_nms_test: int = 1000,
        post_nms_test: int = 1000,
        nms_iou: float = 0.7,
        min_size: float = 1e-3,
        beta: float = 1 / 9,
    ) -> None:
        super().__init__()
        self.head = RPNHead(in_channels, anchors.per_place, num_convs)
        self.anchors = anchors
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.num_samples, self.max_positives = num_samples, int(num_samples * positive_fraction)
        self.pre_nms = {True: pre_nms_train, False: pre_nms_test}
        self.post_nms = {True: post_nms_train, False: post_nms_test}
        self.nms_iou, self.min_size, self.beta = nms_iou, min_size, beta

    def propose(self, features: dict[int, Tensor], sizes: Tensor) -> Proposals:
        """Proposals of images of ``sizes`` ``[N, 2]`` from maps ``[N, C, H, W]`` by stride."""
        return self._select(self._predict(features), sizes)

    def propose_and_learn(
        self, features: dict[int, Tensor], sizes: Tensor, targets: Targets
    ) -> tuple[Proposals, dict[str, Loss]]:
        """`propose`, and the losses ``rpn_objectness`` and ``rpn_box``."""
        levels = self._predict(features)
        return self._select(levels, sizes), self._losses(levels, targets)

    def _predict(self, features: dict[int, Tensor]) -> _Levels:
        outputs = [self.head(features[stride]) for stride in sorted(features)]
        return _Levels(
            [logits for logits, _ in outputs], [deltas for _, deltas in outputs], self.anchors(features)
        )

    @torch.no_grad()
    def _select(self, levels: _Levels, sizes: Tensor) -> Proposals:
        """The best of each level, decoded, clipped and suppressed level by level; the best of all that remain."""
        scores, boxes, groups = [], [], []
        for level, (logits, deltas, anchors) in enumerate(zip(*levels, strict=True)):
            top, index = best(full_precision(logits), self.pre_nms[self.training])
            decoded = box_ops.decode(full_precision(take(deltas, index)), anchors[index])
            boxes.append(box_ops.clip(decoded, sizes))
            scores.append(top)
            groups.append(torch.full_like(index, level))
        all_boxes, all_scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        large = (all_boxes[..., 2:] - all_boxes[..., :2] >= self.min_size).all(-1)
        all_scores = all_scores.masked_fill(~large, -torch.inf)
        keep = batched_nms(all_boxes, all_scores, torch.cat(groups, 1), self.nms_iou)
        all_scores = all_scores.masked_fill(~keep, -torch.inf)
        scores_kept, index = all_scores.topk(min(self.post_nms[self.training], all_scores.shape[1]))
        valid = scores_kept > -torch.inf
        return Proposals(take(all_boxes, index), scores_kept.masked_fill(~valid, 0.0), valid)

    def _losses(self, levels: _Levels, targets: Targets) -> dict[str, Loss]:
        logits, deltas = torch.cat(levels.logits, 1), torch.cat(levels.deltas, 1)
        anchors = torch.cat(levels.anchors)
        with torch.no_grad():
            found = match(anchors[None], targets)
            positive = (found.iou >= self.positive_iou) | found.best_of_object
            negative = (found.iou < self.negative_iou) & ~positive & ~found.in_crowd
            index, valid, is_positive = sample(
                positive, negative, self.num_samples, self.max_positives, targets.keys, SAMPLING_STREAM
            )
            objects = take(targets.boxes, found.object.gather(1, index))
            wanted = box_ops.encode(objects, anchors[index])
            count = valid.sum()
        return {
            "rpn_objectness": binary(logits.gather(1, index), is_positive, valid, count),
            "rpn_box": smooth_l1(take(deltas, index), wanted, is_positive, self.beta, count),
        }
