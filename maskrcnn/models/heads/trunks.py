"""Trunks: the layers of a head before its predictor, on pooled regions."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.folded import paths, with_folded_norms
from maskrcnn.models.backbones.resnet import Arch, build_resnet
from maskrcnn.models.norms import LayerNorm, Norm, batch_norm_of, normalised


class FullyConnected(nn.Linear):
    """A linear layer, ``[R, K]`` to ``[R, D]``.

    On a CPU with AVX-512, with several threads in float32, it is computed as a 1x1 convolution, because torch uses
    oneDNN for convolutions and MKL for matrix products. On an AMD processor, oneDNN took 0.6 times as long for K =
    12544 and 0.8 times as long for small layers.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: ``[R, K]`` to ``[R, D]``."""
        plain = (
            torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
            or torch.get_num_threads() == 1
            or "AVX512" not in torch.backends.cpu.get_cpu_capability()
        )
        if plain or input.device.type != "cpu" or input.dtype != torch.float32 or len(input) == 0:
            return super().forward(input)
        along_a_row = input.t()[None, :, None, :]  # [1, K, 1, R], channels-last
        return F.conv2d(along_a_row, self.weight[:, :, None, None], self.bias)[0, :, 0].t()


class TwoFCTrunk(nn.Module):
    """Fully connected layers with ReLU on the flattened region: ``[R, C, P, P]`` to ``[R, dim]``.

    Args:
        in_channels: number of channels of the regions.
        pooled_size: P, side of the regions.
        dim: units of each layer.
        num_layers: number of layers.
    """

    def __init__(self, in_channels: int, pooled_size: int, dim: int = 1024, num_layers: int = 2) -> None:
        super().__init__()
        sizes = [in_channels * pooled_size**2] + [dim] * num_layers
        layers = [FullyConnected(a, b) for a, b in pairwise(sizes)]
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.out_channels = dim

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply the layers: ``[R, C, P, P]`` to ``[R, dim]``."""
        x = pooled.flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x), inplace=True)
        return x


class ConvTrunk(nn.Module):
    """3x3 convolutions with ReLU: ``[R, C, P, P]`` to ``[R, dim, P, P]``.

    Batch norm ignores empty regions, which are zero because the pooler leaves padding at zero.

    Args:
        in_channels: number of channels of the regions.
        dim: number of channels of each convolution.
        num_convs: number of convolutions.
        norm: norm after each convolution; None is none.
        norm_eps: added to the variance in the norm.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int = 256,
        num_convs: int = 4,
        norm: LayerNorm | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        sizes = [in_channels] + [dim] * num_convs
        convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)]
        for conv in convs:
            initialise(conv)
        if norm == "sync_bn":
            raise UserError("norm=sync_bn would count empty regions; a trunk's norm is bn, frozen_bn or gn")
        self.convs = nn.ModuleList(normalised(conv, norm, norm_eps) for conv in convs)
        self.has_batch_norm = norm == "bn"
        self.out_channels = sizes[-1]

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply the layers: ``[R, C, P, P]`` to ``[R, dim, P, P]``."""
        used = pooled.detach().flatten(1).any(1) if self.has_batch_norm and self.training else None
        for layer in self.convs:
            if used is None:
                pooled = layer(pooled)
            else:
                conv, norm = layer.children()
                pooled = batch_norm_of(norm, conv(pooled), used)
            pooled = F.relu(pooled, inplace=True)
        return pooled


class ConvFCTrunk(nn.Module):
    """3x3 convolutions, then fully connected layers: ``[R, C, P, P]`` to ``[R, dim]`` (4conv1fc; Wu and He, 2018).

    Args:
        in_channels: number of channels of the regions.
        pooled_size: P, side of the regions.
        conv_dim: number of channels of each convolution.
        num_convs: number of convolutions.
        dim: units of each fully connected layer.
        num_layers: number of fully connected layers.
        norm: norm after each convolution; None is none.
        norm_eps: added to the variance in the norm.
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
        """Apply the layers: ``[R, C, P, P]`` to ``[R, dim]``."""
        out: Tensor = self.fc(self.convs(pooled))
        return out


class Res5Trunk(nn.Module):
    """The stage res5 of a ResNet as a head on regions of C4.

    Trainable batch norm ignores empty regions, which are zero because the pooler leaves padding at zero.

    Args:
        arch: see `ResNet`.
        norm: see `ResNet`.
        weights: see `ResNet`.
        stride: 1 for 7x7 regions (the paper's Table 2c), 2 for 14x14 regions (every released C4 model).
        norm_eps: added to the variance in the norm.
        stride_in_1x1: see `ResNet`.

    Raises:
        UserError: ``sync_bn``, which is not supported.
    """

    def __init__(
        self,
        arch: Arch = "resnet50",
        norm: Norm = "auto",
        weights: str | None = None,
        stride: Literal[1, 2] = 1,
        norm_eps: float = 1e-5,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        if norm == "sync_bn":
            raise UserError(
                "norm=sync_bn would count empty regions in res5 as a head; a C4 model's norm is bn, frozen_bn or gn"
            )
        self.res5 = build_resnet(arch, norm, weights, False, norm_eps, stride_in_1x1).layer4
        if stride == 1:
            for conv in self.res5[0].modules():
                if isinstance(conv, nn.Conv2d):
                    conv.stride = (1, 1)
        self.has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in self.res5.modules())
        self.res5 = with_folded_norms(self.res5)
        self.out_channels = 512 if arch in ("resnet18", "resnet34") else 2048

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply the stage: ``[R, C, P, P]`` to ``[R, out_channels, P / stride, P / stride]``."""
        if not (self.has_batch_norm and self.training):
            out: Tensor = self.res5(pooled)
            return out
        used = pooled.detach().flatten(1).any(1)
        for block in self.res5:
            pooled = _block_of_used(block, pooled, used)
        return pooled


def _block_of_used(block: nn.Module, x: Tensor, used: Tensor) -> Tensor:
    """Apply a residual block whose batch norms only see the regions ``used`` ``[R]``."""
    main, shortcut = paths(block)
    out = x
    for place, (conv, norm) in enumerate(main):
        out = batch_norm_of(norm, conv(F.relu(out) if place else out), used)
    for conv, norm in shortcut:
        x = batch_norm_of(norm, conv(x), used)
    return F.relu(out + x)


def initialise(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Initialise a convolution that a ReLU follows at random (He et al., 2015), without bias."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
