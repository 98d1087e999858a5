"""Heads on position-sensitive maps: R-FCN (Dai et al., 2016) and Light-Head R-CNN (Li et al., 2017).

A convolution on the whole map computes separate channels for every bin of a region. Little or no computation per
region remains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models import boxes as box_ops
from maskrcnn.models.heads.box import BoxBranch, BoxHead
from maskrcnn.models.precision import full_precision
from maskrcnn.models.protocols import RoIOp
from maskrcnn.models.roi_pooling import RoIPooler


class VoteHead(BoxBranch):
    """R-FCN's head: ``P^2 (K + 1)`` score maps and ``4 P^2`` box maps, pooled by position and averaged over the bins.

    Args:
        pooler: P is its output size. An operator of `maskrcnn_ops` becomes position-sensitive.
        in_channels: number of channels of the maps.
        num_classes: K, without background.
        dim: number of channels of a 1x1 convolution that first reduces the map (R-FCN: 1024); None leaves it out.

    The other arguments are those of `BoxBranch`.
    """

    def __init__(
        self,
        pooler: RoIPooler,
        in_channels: int,
        num_classes: int,
        dim: int | None = 1024,
        class_agnostic: bool = True,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = 1 / 9,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        num_detections: int = 100,
        num_candidates: int | None = 4000,
        max_log_scale: float = box_ops.MAX_LOG_SCALE,
        min_size: float = 0.0,
    ) -> None:
        super().__init__(
            by_position(pooler),
            *(num_classes, class_agnostic, box_weights, beta, score_threshold, nms_iou),
            *(num_detections, num_candidates, max_log_scale, min_size),
        )
        reduce: list[nn.Module] = (
            [] if dim is None else [nn.Conv2d(in_channels, dim, 1), nn.ReLU(inplace=True)]
        )
        self.sizes = (num_classes + 1, 4 * self.num_boxes)
        maps = nn.Conv2d(dim or in_channels, sum(self.sizes) * pooler.output_size**2, 1)
        self.trunk = nn.Sequential(*reduce, maps)
        _initialise(self.trunk)

    def pooled_maps(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """Compute the score and box maps of the pooled strides."""
        return {stride: self.trunk(x) for stride, x in self.pooler.pooled_strides(features).items()}

    def predict(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """See `BoxBranch.predict`."""
        regions = self.pooler.regions(self.pooled_maps(features), boxes, valid)
        votes = regions.spread(full_precision(regions.pooled).mean((2, 3)))
        logits, deltas = votes.split(self.sizes, -1)
        return logits, deltas.unflatten(-1, (-1, 4))


class LightHead(BoxHead):
    """Light-Head R-CNN: thin position-sensitive maps, then a trunk on the pooled regions.

    Args:
        pooler: P is its output size. An operator of `maskrcnn_ops` becomes position-sensitive.
        maps: ``[N, C, H, W]`` to ``[N, C' P^2, H, W]``, for example `LargeSeparable`.
        trunk: ``[R, C', P, P]`` to ``[R, D]``, for example `TwoFCTrunk` with one layer.

    The other arguments are those of `BoxBranch`.
    """

    def __init__(
        self,
        pooler: RoIPooler,
        maps: nn.Module,
        trunk: nn.Module,
        num_classes: int,
        class_agnostic: bool = True,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = 1 / 9,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        num_detections: int = 100,
        num_candidates: int | None = 4000,
        max_log_scale: float = box_ops.MAX_LOG_SCALE,
        min_size: float = 0.0,
    ) -> None:
        super().__init__(
            by_position(pooler),
            trunk,
            *(num_classes, class_agnostic, box_weights, beta, score_threshold, nms_iou),
            *(num_detections, num_candidates, max_log_scale, min_size),
        )
        self.maps = maps

    def pooled_maps(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        """Compute the thin maps of the pooled strides."""
        return {stride: self.maps(x) for stride, x in self.pooler.pooled_strides(features).items()}


class LargeSeparable(nn.Module):
    """The sum of two paths of large separable convolutions: 1xk then kx1, and kx1 then 1xk.

    Args:
        in_channels: number of channels of the map.
        out_channels: number of output channels; Light-Head R-CNN has ``10 P^2``.
        dim: number of channels between the two convolutions of a path.
        size: k, odd.
    """

    def __init__(self, in_channels: int, out_channels: int = 490, dim: int = 256, size: int = 15) -> None:
        super().__init__()
        flat, high = (1, size), (size, 1)
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, dim, first, padding=(first[0] // 2, first[1] // 2)),
                nn.Conv2d(dim, out_channels, second, padding=(second[0] // 2, second[1] // 2)),
            )
            for first, second in ((flat, high), (high, flat))
        )
        _initialise(self.paths)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the maps: ``[N, C, H, W]`` to ``[N, out_channels, H, W]``."""
        return F.relu(self.paths[0](x) + self.paths[1](x))


def by_position(pooler: RoIPooler) -> RoIPooler:
    """Return the pooler with the position-sensitive form of its operator. Custom operators are not changed."""
    operator: RoIOp = pooler.operator
    if getattr(operator, "position_sensitive", True):
        return pooler
    try:
        operator = dataclasses.replace(operator, position_sensitive=True)  # type: ignore[type-var]
    except ValueError as error:
        raise UserError(
            f"this head needs a position-sensitive operator, which {operator} has no form of ({error}); "
            "choose roi_op=ps_align, ps_pool or ps_warp"
        ) from error
    return RoIPooler(operator, pooler.output_size, pooler.max_stride)


def _initialise(layers: nn.Module) -> None:
    """Initialise convolutions with small weights and a bias of 0."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
