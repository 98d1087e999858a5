"""Convolutions that compute their weight gradient by matrix products, for training on CPUs without AVX-512.

For each tap ``(i, j)`` of the kernel, the gradient of a convolution by its weight is the matrix product

    grad[:, :, i, j] = sum over positions p of  grad_output[p] x input[stride * p + (i, j) - padding]

Channels-last maps are matrices ``[positions, channels]``, and a tap shifts the rows of one against those of the other.
The product therefore needs no copy. At the borders, a shifted row belongs to the neighbouring line or image; those
products are subtracted. For AVX2, oneDNN has no such kernel: its own reach a fifth to a half of the speed of a matrix
product (see docs/speed.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.models.backbones.frozen_norms import with_norm

# With fewer channels on either side, the products are too narrow to be faster.
_LEAST_CHANNELS = {1: 64, 3: 128}


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that computes the gradient of its weight by matrix products. Made by `use_matrix_products`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or not _gains(self, input, weight):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        out: Tensor = _Convolution.apply(input, weight, bias, self.stride, self.padding)
        return out


def use_matrix_products(model: nn.Module) -> int:
    """Let a model's convolutions compute their weight gradients by matrix products.

    On a CPU with AVX-512 nothing changes, because torch's kernels are faster there. Names and parameters do not
    change, and values change by rounding only. Convolutions fall back to torch's gradient on a GPU, under autocast, in
    `torch.compile`, for maps that are not channels-last and for second derivatives.

    Args:
        model: changed in place.

    Returns:
        The number of changed convolutions.
    """
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        return 0
    instead: dict[type[nn.Conv2d], type[nn.Conv2d]]
    instead = {nn.Conv2d: Conv2d, with_norm(nn.Conv2d): with_norm(Conv2d)}
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    chosen = [conv for conv in convs if type(conv) in instead and _is_covered(conv)]
    for conv in chosen:
        conv.__class__ = instead[type(conv)]
    return len(chosen)


def _is_covered(conv: nn.Conv2d) -> bool:
    """Whether a convolution is supported: kernels of 1 x 1, and of 3 x 3 with padding 1; stride 1 or 2."""
    return (
        (conv.kernel_size, conv.padding) in (((1, 1), (0, 0)), ((3, 3), (1, 1)))
        and conv.stride in ((1, 1), (2, 2))
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS[conv.kernel_size[0]]
    )


def _gains(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 4
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous(memory_format=torch.channels_last)
        and (conv.stride == (1, 1) or not (x.shape[2] % 2 or x.shape[3] % 2))
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # second derivatives need differentiable operators
            return *_library_gradients(grad, x, weight, ctx.stride, ctx.padding, needed), None, None
        grad = grad.contiguous(memory_format=torch.channels_last)
        grads = _library_gradients(grad, x, weight, ctx.stride, ctx.padding, [needed[0], False, False])
        by_weight = weight_gradient(x, grad, weight.shape[2], ctx.stride[0]) if needed[1] else None
        by_bias = grad.sum((0, 2, 3)) if needed[2] else None
        return grads[0], by_weight, by_bias, None, None


def _library_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any, needed: Any
) -> tuple[Tensor | None, ...]:
    if not any(needed):
        return None, None, None
    found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], stride, padding, [1, 1], False, [0, 0], 1, list(needed)
    )
    return found


def weight_gradient(x: Tensor, grad: Tensor, kernel: int, stride: int) -> Tensor:
    """Compute the gradient of a convolution by its weight.

    Args:
        x: the input ``[N, C, stride * H, stride * W]``, channels-last.
        grad: the gradient of the output, ``[N, K, H, W]``, channels-last.
        kernel: 1 (without padding) or 3 (with padding 1).
        stride: 1 or 2.

    Returns:
        ``[K, C, kernel, kernel]``.
    """
    rows = grad.permute(0, 2, 3, 1)
    out = grad.new_empty(grad.shape[1], kernel, kernel, x.shape[1])
    planes: dict[tuple[int, int], Tensor] = {}
    for i in range(kernel):
        for j in range(kernel):
            # Input row stride * h + i - 1 is row h + shift of every stride-th row from ``phase`` on.
            (shift_h, phase_h), (shift_w, phase_w) = (divmod(tap - kernel // 2, stride) for tap in (i, j))
            if (phase_h, phase_w) not in planes:
                plane = x[:, :, phase_h::stride, phase_w::stride].permute(0, 2, 3, 1)
                planes[phase_h, phase_w] = plane.contiguous()
            _tap(out[:, i, j], rows, planes[phase_h, phase_w], shift_h, shift_w)
    return out.permute(0, 3, 1, 2)


def _tap(out: Tensor, grad: Tensor, x: Tensor, shift_h: int, shift_w: int) -> None:
    """``out[k, c] = sum over n, h, w of grad[n, h, w, k] * x[n, h + shift_h, w + shift_w, c]``; shifts are -1, 0, 1."""
    _, height, width, _ = grad.shape
    grads, inputs = grad.flatten(0, 2), x.flatten(0, 2)
    torch.mm(*_overlap(grads, inputs, shift_h * width + shift_w), out=out)
    if shift_w:  # subtract products of the first or last column with the neighbouring line
        column, other = (0, width - 1) if shift_w < 0 else (width - 1, 0)
        pairs = _overlap(grad[:, :, column].flatten(0, 1), x[:, :, other].flatten(0, 1), shift_h + shift_w)
        out.addmm_(*pairs, alpha=-1)
    if shift_h:  # subtract products of the first or last line with the neighbouring image
        line, other = (0, height - 1) if shift_h < 0 else (height - 1, 0)
        first, last = max(0, -shift_w), width - max(0, shift_w)
        found = grad[:, line, first:last], x[:, other, first + shift_w : last + shift_w]
        pairs = _overlap(found[0].flatten(0, 1), found[1].flatten(0, 1), shift_h * (last - first))
        out.addmm_(*pairs, alpha=-1)


def _overlap(grads: Tensor, inputs: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """Rows ``r`` of ``grads``, transposed, and rows ``r + shift`` of ``inputs``, for all r for which both exist."""
    count = max(0, len(grads) - abs(shift))
    return grads.narrow(0, min(max(0, -shift), len(grads)), count).t(), inputs.narrow(
        0, min(max(0, shift), len(grads)), count
    )
