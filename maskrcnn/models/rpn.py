"""Region proposal network: proposals from feature maps, and its loss (Faster R-CNN, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from maskrcnn_ops import batched_nms
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models import boxes as box_ops
from maskrcnn.models.anchors import Anchors
from maskrcnn.models.losses import binary, smooth_l1
from maskrcnn.models.precision import full_precision
from maskrcnn.models.sampling import match, sample, take
from maskrcnn.structures import Loss, Proposals, Targets

SAMPLING_STREAM = 1


class _Anchored(NamedTuple):
    """Outputs of all levels, smallest stride first: logits ``[N, A]``, deltas ``[N, A, 4]``, anchors ``[A, 4]``.

    Attributes:
        sizes: number of anchors of each level.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    sizes: list[int]


class RPNHead(nn.Module):
    """3x3 convolutions, then objectness and box deltas at every cell. All levels share the weights.

    Args:
        in_channels: number of channels of every map.
        anchors_per_place: number of anchors per cell.
        num_convs: number of 3x3 convolutions, at least 1.
    """

    def __init__(self, in_channels: int, anchors_per_place: int, num_convs: int = 1) -> None:
        super().__init__()
        if num_convs < 1:
            raise UserError(f"the RPN needs at least one 3x3 convolution, but num_convs={num_convs}")
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in range(num_convs)
        )
        self.logits = nn.Conv2d(in_channels, anchors_per_place, 1)
        self.deltas = nn.Conv2d(in_channels, 4 * anchors_per_place, 1)
        for conv in (*self.convs, self.logits, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Predict logit and deltas of the anchors of each map.

        Args:
            features: maps ``[N, C, H, W]``.

        Returns:
            ``[N, H*W*A, 5]`` for each map, ordered by (y, x, anchor).
        """
        weight, bias = self._predictor()
        maps = [F.relu(self.convs[-1](x), inplace=True) for x in self._hidden(features)]
        return [F.conv2d(x, weight, bias).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5) for x in maps]

    def _hidden(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Apply all 3x3 convolutions but the last."""
        maps = list(features)
        for conv in self.convs[:-1]:
            maps = [F.relu(conv(x), inplace=True) for x in maps]
        return maps

    def at(self, features: Sequence[Tensor], index: Tensor) -> Tensor:
        """Compute the outputs of some anchors only. The last 3x3 convolution reads the cells around each of them.

        Args:
            features: maps ``[N, C, H, W]``.
            index: ``[N, S]`` anchors, numbered as in the outputs of all maps one after another.

        Returns:
            ``[N, S, 5]``.
        """
        conv, hidden, (weight, bias) = self.convs[-1], self._hidden(features), self._predictor()
        assert isinstance(conv, nn.Conv2d)
        cells = [x.permute(0, 2, 3, 1).flatten(1, 2) for x in hidden]
        outside = cells[0].new_zeros(len(index), 1, cells[0].shape[2])
        place, anchor = index // self.logits.out_channels, index % self.logits.out_channels
        around = _neighbours(tuple(x.shape[2:] for x in hidden), index.device)[place]  # [N, S, 9]
        patches = take(torch.cat([*cells, outside], 1), around.flatten(1)).view(*index.shape, -1)
        x = F.relu(F.linear(patches, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias), inplace=True)
        outputs = F.linear(x, weight.flatten(1), bias).unflatten(-1, (-1, 5))  # [N, S, A, 5]
        chosen: Tensor = outputs.take_along_dim(anchor[..., None, None], 2)
        return chosen.squeeze(2)

    def _predictor(self) -> tuple[Tensor, Tensor]:
        """Merge the weights and biases of both 1x1 layers: each anchor's logit, then its four deltas."""
        (w, b), (v, c) = ((layer.weight, layer.bias) for layer in (self.logits, self.deltas))
        assert b is not None
        assert c is not None
        weight = torch.cat([w.unsqueeze(1), v.unflatten(0, (-1, 4))], 1).flatten(0, 1)
        return weight, torch.cat([b.unsqueeze(1), c.view(-1, 4)], 1).flatten()


def best(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Select the highest scores.

    Args:
        scores: ``[N, A]``.
        most: number of scores to keep.

    Returns:
        Scores and indices ``[N, min(most, A)]`` by descending score. In an exported graph they are ``[N, most]``;
        padding has index 0 and score -inf.
    """
    if not torch.compiler.is_exporting():
        return scores.topk(min(most, scores.shape[1]))
    padding = scores.new_full((scores.shape[0], most), -torch.inf)
    top, index = torch.cat([scores, padding], 1).topk(most)
    return top, torch.where(top > -torch.inf, index, 0)


class RPN(nn.Module):
    """Region proposal network with the sampling and suppression of the released code.

    Args:
        in_channels: number of channels of every map.
        anchors: see `Anchors`.
        num_convs: number of 3x3 convolutions.
        positive_iou: an anchor is positive if its IoU with an object is at least this, or the highest for the object.
        negative_iou: an anchor is negative if its IoU with all objects is below this.
        num_samples: anchors per image that enter the loss.
        positive_fraction: largest share of positive anchors among them.
        pre_nms_train: proposals kept per level before suppression in training.
        post_nms_train: proposals kept per image after suppression in training.
        pre_nms_test: the same before suppression in evaluation.
        post_nms_test: the same after suppression in evaluation.
        nms_iou: IoU threshold of the suppression.
        min_size: drop proposals whose width or height is below this, in pixels.
        beta: where smooth L1 changes from quadratic to linear.
        score_threshold: drop proposals whose objectness (0..1) is below this.
        box_weights: factors of the deltas (dx, dy, dw, dh).
        max_log_scale: upper limit of dw and dh.
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
        """Compute proposals.

        Args:
            features: maps ``[N, C, H, W]`` by stride.
            sizes: ``[N, 2]`` (height, width) of the images, to which boxes are clipped.
        """
        return self._select(self._predict(features), sizes)

    def propose_and_learn(
        self, features: dict[int, Tensor], sizes: Tensor, targets: Targets
    ) -> tuple[Proposals, dict[str, Loss]]:
        """Compute proposals and losses.

        Only the sampled anchors have a gradient. They are predicted again, which takes less time than the gradient of
        all anchors.

        Args:
            features: maps ``[N, C, H, W]`` by stride.
            sizes: ``[N, 2]`` (height, width) of the images.
            targets: ground truth of the batch.

        Returns:
            The proposals, and the losses ``rpn_objectness`` and ``rpn_box``.
        """
        with torch.no_grad():
            found = self._predict(features)
        return self._select(found, sizes), self._losses(features, found.anchors, targets)

    def _predict(self, features: dict[int, Tensor]) -> _Anchored:
        levels = self.head(_in_order(features))
        outputs, anchors = full_precision(torch.cat(levels, 1)), torch.cat(self.anchors(features))
        return _Anchored(outputs[..., 0], outputs[..., 1:], anchors, [level.shape[1] for level in levels])

    @torch.no_grad()
    def _select(self, found: _Anchored, sizes: Tensor) -> Proposals:
        """Keep the best of each level; decode, clip and suppress them per level; keep the best of the rest."""
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
        # An exported graph must not keep tensors in a cache.
        levels = _levels.__wrapped__ if torch.compiler.is_exporting() else _levels
        groups = levels(tuple(top.shape[1] for top in scores), index.device).expand_as(index)
        keep = batched_nms(boxes, score.masked_fill(unusable, -torch.inf), groups, self.nms_iou)
        score = score.masked_fill(~keep, -torch.inf)
        kept, index = score.topk(min(self.post_nms[self.training], score.shape[1]))
        valid = kept > -torch.inf
        return Proposals(take(boxes, index), kept.masked_fill(~valid, 0.0), valid)

    def _losses(self, features: dict[int, Tensor], anchors: Tensor, targets: Targets) -> dict[str, Loss]:
        with torch.no_grad():
            found = match(anchors[None], targets)
            positive = (found.iou >= self.positive_iou) | found.best_of_object
            negative = (found.iou < self.negative_iou) & ~(positive | found.in_crowd)
            index, valid, is_positive = sample(
                positive, negative, self.num_samples, self.max_positives, targets.keys, SAMPLING_STREAM
            )
            objects = take(targets.boxes, found.object.gather(1, index))
            wanted = box_ops.encode(objects, anchors[index], self.box_weights)
            count = valid.sum()
        outputs = full_precision(self.head.at(_in_order(features), index))
        return {
            "rpn_objectness": binary(outputs[..., 0], is_positive, valid, count),
            "rpn_box": smooth_l1(outputs[..., 1:], wanted, is_positive, self.beta, count),
        }


def _in_order(features: dict[int, Tensor]) -> list[Tensor]:
    """The maps, smallest stride first."""
    return [features[stride] for stride in sorted(features)]


@lru_cache(maxsize=64)
def _levels(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """0 for the first ``sizes[0]`` entries, 1 for the next ``sizes[1]``, ..."""
    return torch.cat([torch.full((size,), level, device=device) for level, size in enumerate(sizes)])


@lru_cache(maxsize=64)
def _neighbours(sides: tuple[torch.Size, ...], device: torch.device) -> Tensor:
    """For each cell of maps of ``sides``, the 3x3 cells around it, in row-major order: ``[P, 9]``; P is outside."""
    cells = sum(height * width for height, width in sides)
    first, found = 0, []
    for height, width in sides:
        numbers = first + torch.arange(height * width, device=device).view(height, width)
        padded = F.pad(numbers, (1, 1, 1, 1), value=cells)
        found.append(padded.unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9))
        first += height * width
    return torch.cat(found)
