"""3x3 convolutions by Winograd's method, for CPUs without AVX-512.

torch's own kernels (oneDNN) are slow there. Winograd's method (`maskrcnn_ops.conv3x3`) has 2.25 times fewer products,
for the convolution and for its gradients. `docs/speed.md` has the measurements.
"""

from __future__ import annotations

from typing import Any

import torch
from maskrcnn_ops import conv3x3, conv3x3_input_gradient, conv3x3_weight_gradient, winograd_is_available
from torch import Tensor, nn

from maskrcnn.models.backbones.folded import with_norm

# With fewer channels, or fewer cells in the output, the transforms take longer than the method saves.
_LEAST_CHANNELS = 64
_LEAST_CELLS = 256


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that is faster on a CPU without AVX-512. Made by `use_fast_convolutions`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _gains(input):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        out: Tensor = _Convolution3x3.apply(input, weight, bias)
        return out


def use_fast_convolutions(model: nn.Module) -> int:
    """Let a model's convolutions use Winograd's method.

    On a CPU with AVX-512 nothing changes, because torch's kernels are faster there. Names and parameters do not
    change, and values change by rounding only. Convolutions fall back to torch's kernels on a GPU, in float64, under
    autocast, in `torch.compile`, for maps that are not channels-last and for second derivatives.

    Args:
        model: changed in place.

    Returns:
        The number of changed convolutions.
    """
    if "AVX512" in torch.backends.cpu.get_cpu_capability() or not winograd_is_available():
        return 0
    instead: dict[type[nn.Conv2d], type[nn.Conv2d]]
    instead = {nn.Conv2d: Conv2d, with_norm(nn.Conv2d): with_norm(Conv2d)}
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    chosen = [conv for conv in convs if type(conv) in instead and _is_covered(conv)]
    for conv in chosen:
        conv.__class__ = instead[type(conv)]
    return len(chosen)


def _is_covered(conv: nn.Conv2d) -> bool:
    """Whether a convolution is 3x3 with stride 1 and padding 1, and has enough channels."""
    return (
        (conv.kernel_size, conv.padding) == ((3, 3), (1, 1))
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        and conv.in_channels % 8 == conv.out_channels % 8 == 0
    )


def _gains(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 4
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[0] * x.shape[2] * x.shape[3] >= _LEAST_CELLS
    )


class _Convolution3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return conv3x3(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = list(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # second derivatives need differentiable operators
            found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
                grad, x, weight, [weight.shape[0]], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, needed
            )
            return found
        grad = grad.contiguous(memory_format=torch.channels_last)
        by_input = conv3x3_input_gradient(grad, weight) if needed[0] else None
        by_weight = conv3x3_weight_gradient(grad, x) if needed[1] else None
        return by_input, by_weight, grad.sum((0, 2, 3)) if needed[2] else None
