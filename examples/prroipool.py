"""PrRoIPool (Jiang et al., 2018): the exact mean of the interpolated map over each bin, with a gradient for the box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def hat_integral(t: Tensor) -> Tensor:
    """Integral up to ``t`` of ``max(0, 1 - |x|)``, the kernel of linear interpolation."""
    t = t.clamp(-1, 1)
    return 0.5 + t - 0.5 * t * t.abs()


def bin_weights(low: Tensor, high: Tensor, bins: int, size: int) -> Tensor:
    """Weight of every cell in the mean over each bin between ``low`` and ``high`` ``[...]``: ``[..., bins, size]``."""
    step = ((high - low) / bins)[..., None, None].clamp(min=1e-6)
    begin = low[..., None, None] + step * torch.arange(bins, device=low.device)[:, None]
    cells = torch.arange(size, device=low.device)
    return (hat_integral(begin + step - cells) - hat_integral(begin - cells)) / step


@dataclass(frozen=True)
class PrRoIPool:
    """A RoI operator for any pyramid of doubling strides. It chooses levels like ``maskrcnn_ops.RoIOp``."""

    canonical_size: float = 224
    canonical_level: float = 4

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        """Pool maps ``[N, C, H, W]`` by stride at boxes ``[N, K, 4]``, valid ``[N, K]``, to ``[N * K, C, P, P]``."""
        side = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=1e-6).sqrt()
        level = torch.floor(self.canonical_level + torch.log2(side / self.canonical_size) + 1e-6)
        strides = sorted(features)
        level = level.clamp(math.log2(strides[0]), math.log2(strides[-1]))
        out: Tensor | None = None
        for stride in strides:
            maps = features[stride]
            x1, y1, x2, y2 = (boxes.to(maps.dtype) / stride - 0.5).unbind(-1)  # cell c is centred at c
            here = (valid & (level == math.log2(stride)))[..., None, None]
            rows = bin_weights(y1, y2, output_size, maps.shape[2]) * here  # [N, K, P, H]
            columns = bin_weights(x1, x2, output_size, maps.shape[3])
            pooled = torch.einsum("nkph,nchw,nkqw->nkcpq", rows.to(maps.dtype), maps, columns.to(maps.dtype))
            out = pooled if out is None else out + pooled
        assert out is not None, "features: expected a map for at least one stride"
        return out.flatten(0, 1)
