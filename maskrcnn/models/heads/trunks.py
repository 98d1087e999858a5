"""Trunks of the box head beyond fully connected layers alone."""

from __future__ import annotations

from torch import Tensor, nn

from maskrcnn.models.heads.box import TwoFCTrunk
from maskrcnn.models.heads.mask import ConvTrunk
from maskrcnn.models.norms import LayerNorm


class ConvFCTrunk(nn.Module):
    """3x3 convolutions, then fully connected layers: ``[R, C, P, P]`` to ``[R, dim]`` (4conv1fc; Wu and He, 2018).

    norm: after each convolution, None is none; norm_eps: what it adds to the variance.
    """

    def __init__(
        self,
        in_channels: int,
        pooled_size: int,
        conv_dim: int = 256,
        num_convs: int = 4,
        dim: int = 1024,
        num_layers: int = 1,
        norm: LayerNorm | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.convs = ConvTrunk(in_channels, conv_dim, num_convs, norm, norm_eps)
        self.fc = TwoFCTrunk(self.convs.out_channels, pooled_size, dim, num_layers)
        self.out_channels = dim

    def forward(self, pooled: Tensor) -> Tensor:
        """``[R, C, P, P]`` to ``[R, dim]``."""
        out: Tensor = self.fc(self.convs(pooled))
        return out
