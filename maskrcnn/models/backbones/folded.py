"""Frozen norms, each folded into the convolution before it.

A frozen norm is a scale and a shift per channel: ``y = scale * conv(x, w) + shift = conv(x, scale * w, shift)``.
Scaling the weights instead of the maps saves two passes over every map, a copy for the backward pass, and ten small
operators per norm. Parameters and buffers keep the names and values that they have without folding.

`FrozenStage` and `FrozenStem` are for torchvision's residual networks, and scale the weights of a whole stage in one
operator. `fold_frozen_norms` is for any network: tracing it shows which norms are the only readers of a convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

_BUFFERS = ("weight", "bias", "running_mean", "running_var")
_KINDS: dict[type[nn.Conv2d], type[nn.Conv2d]] = {}


class FoldedNorms:
    """Convolutions without bias, each with the frozen norm that follows it.

    What depends on constants only is cached. It is computed again after one of the constants was written to or moved.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Conv2d, FrozenBatchNorm2d]]) -> None:
        self.convs = [conv for conv, _ in pairs]
        self.norms = [norm for _, norm in pairs]
        self._state: list[tuple[int, int]] = []  # identity and version of the constants that the cache is for
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


class FrozenStem(nn.Sequential):
    """Convolution, frozen norm, ReLU and pooling, the layers of a network's stem."""

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d, relu: nn.Module, pool: nn.Module) -> None:
        super().__init__(conv, norm, relu, pool)
        self._folded = FoldedNorms([(conv, norm)])

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layers: ``[N, 3, H, W]`` to ``[N, C, H/4, W/4]``."""
        (folded,) = self._folded.weights()
        pooled: Tensor = self[3](F.relu_(self._folded.convs[0]._conv_forward(input, *folded)))
        return pooled


class FrozenStage(nn.Sequential):
    """The blocks of a stage of torchvision's residual networks with `FrozenBatchNorm2d`."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self._paths = [paths(block) for block in blocks]
        self._folded = FoldedNorms([pair for paths in self._paths for path in paths for pair in path])

    def forward(self, input: Tensor) -> Tensor:
        """Apply the blocks: ``[N, C, H, W]`` to ``[N, C', H / stride, W / stride]``."""
        weights = iter(self._folded.weights())
        x = input
        for main, shortcut in self._paths:
            out = x
            for index, (conv, _) in enumerate(main):
                out = conv._conv_forward(F.relu_(out) if index else out, *next(weights))
            for conv, _ in shortcut:
                x = conv._conv_forward(x, *next(weights))
            x = F.relu_(out.add_(x))
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


class WithNorm:
    """A convolution that also applies a frozen norm. `fold_frozen_norms` turns the network's convolutions into it."""

    norm: tuple[Any, ...]  # a tuple, so that the norm is not registered in the convolution
    _parameters: dict[str, Tensor | None]

    @property
    def weight(self) -> Tensor:
        """The stored weight times the norm's scale."""
        stored = self._parameters["weight"]
        assert stored is not None
        return stored * self._scale().view(-1, 1, 1, 1)

    @property
    def bias(self) -> Tensor:
        """The norm's shift, plus the stored bias (if any) times the norm's scale."""
        norm, stored, scale = self.norm[0], self._parameters["bias"], self._scale()
        mean = norm.running_mean if stored is None else norm.running_mean - stored
        shift: Tensor = norm.bias - mean * scale
        return shift

    def _scale(self) -> Tensor:
        norm = self.norm[0]
        scale: Tensor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return scale


def with_norm(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """Return the cached class of the convolution ``kind`` with a norm."""
    return _KINDS.setdefault(kind, type(kind.__name__, (WithNorm, kind), {}))


class Folded:
    """A frozen norm that a convolution applies. It only applies its activation, if it has one."""

    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to ``x``, the normalised map."""
        activated: Tensor = self.act(self.drop(x)) if hasattr(self, "act") else x
        return activated


def fold_frozen_norms(net: nn.Module, *kinds: type[nn.Module]) -> int:
    """Fold each frozen norm that is the only reader of a convolution's output.

    Args:
        net: a network, changed in place. A network that `torch.fx` cannot trace is not changed.
        kinds: classes of frozen norms other than torchvision's, with the same buffers.

    Returns:
        The number of folded norms.
    """
    pairs = list(_pairs(net, (FrozenBatchNorm2d, *kinds)))
    for conv, norm in pairs:
        conv.__class__ = with_norm(type(conv))
        conv.norm = (norm,)  # type: ignore[assignment]
        norm.__class__ = type(type(norm).__name__, (Folded, type(norm)), {})
    return len(pairs)


def _pairs(net: nn.Module, norms: tuple[type[nn.Module], ...]) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
    """Yield convolutions, each with the norm that is the only reader of its output."""

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, norms) or not any(True for _ in m.children())

    if not any(isinstance(module, norms) for module in net.modules()):
        return
    try:
        graph = Tracer().trace(net)
    except (fx.proxy.TraceError, TypeError):
        return  # the forward pass depends on values, so leave the norms unfolded
    calls = [node for node in graph.nodes if node.op == "call_module"]
    often = Counter(node.target for node in calls)  # a module that is called twice may read two convolutions
    for node in calls:
        norm, (source, *_) = net.get_submodule(str(node.target)), node.args
        if not isinstance(norm, norms) or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        conv = net.get_submodule(str(source.target))
        if (
            isinstance(conv, nn.Conv2d)
            and len(source.users) == often[node.target] == often[source.target] == 1
        ):
            yield conv, norm
