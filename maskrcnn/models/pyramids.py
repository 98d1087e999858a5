"""From the backbone's maps C2..C5 to the maps that the heads use, by stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.norms import LayerNorm, normalised


class FPN(nn.Module):
    """Feature pyramid network (Lin et al., 2017): strides 4, 8, 16, 32 and, for the RPN, 64.

    Args:
        in_channels: number of channels of C2, C3, C4, C5.
        out_channels: number of channels of every output map.
        extra_level: add P6 by subsampling P5.
        norm: norm after each convolution; None is none.
        norm_eps: added to the variance in the norm.

    Raises:
        UserError: the backbone has only one map.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        extra_level: bool = True,
        norm: LayerNorm | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if len(in_channels) < 2:
            raise UserError(
                f"a feature pyramid needs maps of several strides, but the backbone has {len(in_channels)}, as plain "
                "vision transformers do; take a model on one map (model=r18_c4_fpnhead or r50_c5, pyramid='c5' in "
                "Python), or a network with stages"
            )
        lateral = [nn.Conv2d(channels, out_channels, 1) for channels in in_channels]
        output = [nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels]
        for conv in (*lateral, *output):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.lateral = nn.ModuleList(normalised(conv, norm, norm_eps) for conv in lateral)
        self.output = nn.ModuleList(normalised(conv, norm, norm_eps) for conv in output)
        self.extra_level = extra_level
        self.out_channels = out_channels

    def forward(self, stages: dict[int, Tensor]) -> dict[int, Tensor]:
        """Compute the pyramid.

        Args:
            stages: backbone maps ``[N, C_l, H/l, W/l]`` by stride l.

        Returns:
            Maps ``[N, out_channels, H/l, W/l]`` by stride l.
        """
        strides = sorted(stages)
        outputs: dict[int, Tensor] = {}
        above: Tensor | None = None
        for level in reversed(range(len(strides))):
            feature = self.lateral[level](stages[strides[level]])
            if above is not None:
                feature = feature + F.interpolate(above, size=feature.shape[-2:], mode="nearest")
            outputs[strides[level]] = self.output[level](feature)
            above = feature
        if self.extra_level:
            outputs[2 * strides[-1]] = F.max_pool2d(outputs[strides[-1]], 1, stride=2)
        return outputs


class SingleMap(nn.Module):
    """Passes on the backbone's coarsest map: C4 (stride 16), C5 (stride 32) or the dilated C5 (stride 16)."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, stages: dict[int, Tensor]) -> dict[int, Tensor]:
        """Select the coarsest of the backbone's maps by stride."""
        stride = max(stages)
        return {stride: stages[stride]}
