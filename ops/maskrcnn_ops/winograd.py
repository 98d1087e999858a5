"""3x3 convolutions on a CPU by Winograd's minimal filtering (Lavin and Gray, 2016).

With the matrices of F(2x2, 3x3), a tile of 2x2 outputs takes 16 products per pair of channels instead of 36:

    output = A^T [(G weight G^T) * (B^T input B)] A

For each of the 16 products, all tiles and channels together are a matrix product. In float32, the result is at least as
close to the exact one as that of a direct convolution. The gradient by the weight has the same products:

    gradient = G^T [sum over tiles of (A gradient_of_output A^T) * (B^T input B)] G
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import CPU
from .operators import ops

_VALUES = 2**21  # transformed values at a time: 8 MiB
_G = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
_BOTH_AXES = torch.kron(_G, _G)  # [16, 9]


def winograd_is_available() -> bool:
    """Whether the compiled CPU kernels are loaded, which `conv3x3` needs."""
    return CPU.compiled


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution with stride 1 and padding 1. It records no gradient.

    Args:
        x: ``[N, C, H, W]`` float32 on the CPU, channels-last; C is a multiple of 8.
        weight: ``[K, C, 3, 3]``; K is a multiple of 8.
        bias: ``[K]``; None is zero.

    Returns:
        ``[N, K, H, W]``, channels-last.
    """
    return _convolve(x, _transformed(weight).transpose(1, 2), bias)


def conv3x3_input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of `conv3x3` by its input.

    Args:
        grad: gradient of the output ``[N, K, H, W]``, float32 on the CPU, channels-last.
        weight: ``[K, C, 3, 3]``.

    Returns:
        ``[N, C, H, W]``, channels-last.
    """
    return _convolve(grad, _transformed(weight.flip(2, 3)), None)


def conv3x3_weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of `conv3x3` by its weight.

    Args:
        grad: gradient of the output ``[N, K, H, W]``, float32 on the CPU, channels-last.
        x: the input ``[N, C, H, W]``, likewise.

    Returns:
        ``[K, C, 3, 3]``.
    """
    products = grad.new_zeros(16, grad.shape[1], x.shape[1])
    for first, last in _blocks(x, grad.shape[1]):
        gradients = ops.winograd_gradient(grad, first, last).transpose(1, 2)
        products.baddbmm_(gradients, ops.winograd_input(x, first, last))
    taps = torch.mm(_BOTH_AXES.t(), products.flatten(1))
    return taps.view(3, 3, *products.shape[1:]).permute(2, 3, 0, 1)


def _transformed(weight: Tensor) -> Tensor:
    """``G weight G^T``: ``[K, C, 3, 3]`` to ``[16, K, C]``."""
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return torch.mm(_BOTH_AXES, taps).view(16, *weight.shape[:2])


def _convolve(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with transformed weights ``[16, C, K]``."""
    size = (x.shape[0], weights.shape[2], *x.shape[2:])
    out = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    for first, last in _blocks(x, size[1]):
        ops.winograd_output(torch.bmm(ops.winograd_input(x, first, last), weights), bias, out, first)
    return out


def _blocks(x: Tensor, channels: int) -> list[tuple[int, int]]:
    """The tiles of a map, some at a time."""
    tiles = x.shape[0] * -(-x.shape[2] // 2) * -(-x.shape[3] // 2)
    size = max(1, _VALUES // (16 * max(x.shape[1], channels)))
    return [(first, min(first + size, tiles)) for first in range(0, tiles, size)]
