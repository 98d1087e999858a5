"""Residual stages with frozen norms, each folded into the convolution before it.

A frozen norm is a scale and a shift per channel: ``y = scale * conv(x, w) + shift = conv(x, scale * w, shift)``.
Scaling the weights instead of the maps saves two passes over every map, a copy for the backward pass, and ten small
operators per norm. Parameters and buffers keep the names and values that they have without folding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

_BUFFERS = ("weight", "bias", "running_mean", "running_var")


class FoldedNorms:
    """Convolutions without bias, each with the frozen norm that follows it.

    What depends on constants only is cached. It is computed again after one of the constants was written to or moved.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Conv2d, FrozenBatchNorm2d]]) -> None:
        self.convs = [conv for conv, _ in pairs]
        self.norms = [norm for _, norm in pairs]
        self._state: list[
            tuple[int, int]
        ] = []  # identity and version of the constants that the cache depends on
        self._scales: list[Tensor] = []
        self._shifts: list[Tensor] = []
        self._weights: list[Tensor] = []

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each convolution after folding."""
        weights = [conv.weight for conv in self.convs]
        learning = torch.is_grad_enabled() and any(w.requires_grad for w in weights)
        if torch.compiler.is_compiling():
            scales, shifts = self._scales_and_shifts()
            return list(zip(_Scaled.apply(scales, *weights), shifts, strict=True))
        constants = [t for norm in self.norms for t in norm._buffers.values() if t is not None]
        constants += [] if learning else weights
        state = [(t.data_ptr(), t._version) for t in constants]
        if state != self._state:
            with torch.no_grad():
                self._scales, self._shifts = self._scales_and_shifts()
                self._weights = [] if learning else list(torch._foreach_mul(weights, self._scales))
            self._state = state
        folded: Sequence[Tensor] = _Scaled.apply(self._scales, *weights) if learning else self._weights
        return list(zip(folded, self._shifts, strict=True))

    def _scales_and_shifts(self) -> tuple[list[Tensor], list[Tensor]]:
        scales, shifts = [], []
        for norm in self.norms:
            weight, bias, mean, variance = (norm.get_buffer(name) for name in _BUFFERS)
            scales.append(weight * (variance + norm.eps).rsqrt())
            shifts.append(bias - mean * scales[-1])
        return [scale.view(-1, 1, 1, 1) for scale in scales], shifts


class _Scaled(torch.autograd.Function):
    """Multiply all weights by their scales in one operator, forward and backward."""

    @staticmethod
    def forward(ctx: Any, scales: list[Tensor], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.scales = scales
        return tuple(torch._foreach_mul(weights, scales))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *torch._foreach_mul(grads, ctx.scales)


def _convolve(x: Tensor, conv: nn.Conv2d, folded: tuple[Tensor, Tensor]) -> Tensor:
    out: Tensor = conv._conv_forward(x, *folded)
    return out


class FrozenStem(nn.Sequential):
    """Convolution, frozen norm, ReLU and pooling, the layers of a network's stem."""

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d, relu: nn.Module, pool: nn.Module) -> None:
        super().__init__(conv, norm, relu, pool)
        self._folded = FoldedNorms([(conv, norm)])

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layers: ``[N, 3, H, W]`` to ``[N, C, H/4, W/4]``."""
        (folded,) = self._folded.weights()
        pooled: Tensor = self[3](F.relu_(_convolve(input, self._folded.convs[0], folded)))
        return pooled


class FrozenStage(nn.Sequential):
    """The blocks of a stage of torchvision's residual networks with `FrozenBatchNorm2d`."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self._paths = [paths(block) for block in blocks]
        self._folded = FoldedNorms([pair for paths in self._paths for path in paths for pair in path])

    def forward(self, input: Tensor) -> Tensor:
        """Apply the blocks: ``[N, C, H, W]`` to ``[N, C', H / stride, W / stride]``."""
        folded = iter(zip(self._folded.convs, self._folded.weights(), strict=True))
        x = input
        for main, shortcut in self._paths:
            out = x
            for index in range(len(main)):
                out = out if index == 0 else F.relu_(out)
                out = _convolve(out, *next(folded))
            out += _convolve(x, *next(folded)) if shortcut else x
            x = F.relu_(out)
        return x


def stem(net: ResNet) -> nn.Sequential:
    """Return convolution, norm, ReLU and pooling of a residual network. A frozen norm is folded."""
    relu = nn.ReLU(inplace=True)
    if isinstance(net.bn1, FrozenBatchNorm2d):
        return FrozenStem(net.conv1, net.bn1, relu, net.maxpool)
    return nn.Sequential(net.conv1, net.bn1, relu, net.maxpool)


def with_folded_norms(stage: nn.Sequential) -> nn.Sequential:
    """Return the stage, as a `FrozenStage` with the same blocks if its norms are frozen."""
    frozen = any(isinstance(module, FrozenBatchNorm2d) for module in stage.modules())
    return FrozenStage(*stage) if frozen else stage


Pairs = list[tuple[nn.Conv2d, Any]]


def paths(block: nn.Module) -> tuple[Pairs, Pairs]:
    """Return the convolutions of a block with their norms, for the main path and for the shortcut, if any."""
    assert isinstance(block, BasicBlock | Bottleneck)
    main: Any = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if isinstance(block, Bottleneck):
        main.append((block.conv3, block.bn3))
    shortcut: Any = [] if block.downsample is None else [tuple(block.downsample.children())]
    return main, shortcut
