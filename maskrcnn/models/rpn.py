"""Region proposal network: features -> proposals, and its loss (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from maskrcnn_ops import batched_nms
from torch import Tensor, nn

from maskrcnn.models import boxes as box_ops
from maskrcnn.models.anchors import Anchors
from maskrcnn.models.losses import binary, full_precision, smooth_l1
from maskrcnn.models.matching import match, take
from maskrcnn.models.sampling import sample
from maskrcnn.structures import Loss, Proposals, Targets

SAMPLING_STREAM = 1


class _Anchored(NamedTuple):
    """Of all levels, smallest stride first: logits ``[N, A]``, deltas ``[N, A, 4]``, anchors ``[A, 4]``.

    sizes: how many of them each level has.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    sizes: list[int]


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

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Each ``[N, C, H, W]`` to ``[N, H*W*A, 5]``: logit and deltas of its anchors, ordered (y, x, anchor)."""
        weight, bias = (
            self._both(self.logits.weight, self.deltas.weight),
            self._both(self.logits.bias, self.deltas.bias),
        )
        outputs = []
        for x in features:
            for conv in self.convs:
                x = F.relu(conv(x), inplace=True)
            outputs.append(F.conv2d(x, weight, bias).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5))
        return outputs

    def _both(self, logits: Tensor | None, deltas: Tensor | None) -> Tensor:
        """Weights of both layers as those of one: each anchor's logit, then its four deltas."""
        assert logits is not None
        assert deltas is not None
        rest = logits.shape[1:]
        return torch.cat([logits.view(-1, 1, *rest), deltas.view(-1, 4, *rest)], 1).flatten(0, 1)


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
    min_size: proposals narrower or lower than this (pixels) are dropped, score_threshold: and those of a lower
    objectness (0..1). beta: smooth L1's. box_weights: scale the deltas (dx, dy, dw, dh). max_log_scale: dw and dh are
    at most this.
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
        score_threshold: float = 0.0,
        box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        max_log_scale: float = box_ops.MAX_LOG_SCALE,
    ) -> None:
        super().__init__()
        self.head = RPNHead(in_channels, anchors.per_place, num_convs)
        self.anchors = anchors
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.num_samples, self.max_positives = num_samples, int(num_samples * positive_fraction)
        self.pre_nms = {True: pre_nms_train, False: pre_nms_test}
        self.post_nms = {True: post_nms_train, False: post_nms_test}
        self.nms_iou, self.min_size, self.beta = nms_iou, min_size, beta
        self.score_threshold = score_threshold
        self.box_weights, self.max_log_scale = tuple(box_weights), max_log_scale

    def propose(self, features: dict[int, Tensor], sizes: Tensor) -> Proposals:
        """Proposals of images of ``sizes`` ``[N, 2]`` from maps ``[N, C, H, W]`` by stride."""
        return self._select(self._predict(features), sizes)

    def propose_and_learn(
        self, features: dict[int, Tensor], sizes: Tensor, targets: Targets
    ) -> tuple[Proposals, dict[str, Loss]]:
        """`propose`, and the losses ``rpn_objectness`` and ``rpn_box``."""
        found = self._predict(features)
        return self._select(found, sizes), self._losses(found, targets)

    def _predict(self, features: dict[int, Tensor]) -> _Anchored:
        levels = self.head([features[stride] for stride in sorted(features)])
        outputs, anchors = full_precision(torch.cat(levels, 1)), torch.cat(self.anchors(features))
        return _Anchored(outputs[..., 0], outputs[..., 1:], anchors, [level.shape[1] for level in levels])

    @torch.no_grad()
    def _select(self, found: _Anchored, sizes: Tensor) -> Proposals:
        """The best of each level, decoded, clipped and suppressed level by level; the best of all that remain."""
        first, most = 0, self.pre_nms[self.training]
        scores, indices = [], []
        for logits in found.logits.split(found.sizes, 1):
            top, index = best(logits, most)
            scores.append(top)
            indices.append(index + first if first else index)
            first += logits.shape[1]
        score, index = torch.cat(scores, 1), torch.cat(indices, 1)
        decoded = box_ops.decode(
            take(found.deltas, index), found.anchors[index], self.box_weights, self.max_log_scale
        )
        boxes = box_ops.clip(decoded, sizes)
        corner, far = boxes.split(2, -1)
        extent = far - corner
        unusable = ((extent < self.min_size) | (extent <= 0)).any(-1)
        if self.score_threshold > 0:
            unusable |= score.sigmoid() < self.score_threshold
        levels = (
            _levels.__wrapped__ if torch.compiler.is_exporting() else _levels
        )  # a graph's tensors are not kept
        groups = levels(tuple(top.shape[1] for top in scores), index.device).expand_as(index)
        keep = batched_nms(boxes, score.masked_fill(unusable, -torch.inf), groups, self.nms_iou)
        score = score.masked_fill(~keep, -torch.inf)
        kept, index = score.topk(min(self.post_nms[self.training], score.shape[1]))
        valid = kept > -torch.inf
        return Proposals(take(boxes, index), kept.masked_fill(~valid, 0.0), valid)

    def _losses(self, found: _Anchored, targets: Targets) -> dict[str, Loss]:
        with torch.no_grad():
            match_ = match(found.anchors[None], targets)
            positive = (match_.iou >= self.positive_iou) | match_.best_of_object
            negative = (match_.iou < self.negative_iou) & ~(positive | match_.in_crowd)
            index, valid, is_positive = sample(
                positive, negative, self.num_samples, self.max_positives, targets.keys, SAMPLING_STREAM
            )
            objects = take(targets.boxes, match_.object.gather(1, index))
            wanted = box_ops.encode(objects, found.anchors[index], self.box_weights)
            count = valid.sum()
        return {
            "rpn_objectness": binary(found.logits.gather(1, index), is_positive, valid, count),
            "rpn_box": smooth_l1(take(found.deltas, index), wanted, is_positive, self.beta, count),
        }


@lru_cache(maxsize=64)
def _levels(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """0 for the first ``sizes[0]`` entries, 1 for the next ``sizes[1]``, ..."""
    return torch.cat([torch.full((size,), level, device=device) for level, size in enumerate(sizes)])
