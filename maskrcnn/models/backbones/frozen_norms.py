"""Frozen norms of a network of timm or torchvision, each folded into the convolution before it.

See `folded` for the benefit. A norm is folded only if tracing shows that it is the only reader of a convolution's
output. Parameters and buffers keep their names and values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn
from torchvision.ops import FrozenBatchNorm2d

_KINDS: dict[type[nn.Conv2d], type[nn.Conv2d]] = {}


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
