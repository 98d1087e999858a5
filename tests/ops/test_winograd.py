"""3x3 convolutions by Winograd's method against torch's in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from maskrcnn_ops import (
    conv3x3,
    conv3x3_input_gradient,
    conv3x3_weight_gradient,
    winograd,
    winograd_is_available,
)
from torch import Tensor

pytestmark = pytest.mark.skipif(
    not winograd_is_available(), reason="needs the compiled CPU kernels (C++ compiler at installation)"
)
Case = tuple[Tensor, Tensor, Tensor, Tensor]  # input, weight, bias, gradient of the output


def channels_last(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


def case(images: int, channels: tuple[int, int], height: int, width: int) -> Case:
    torch.manual_seed(images + 10 * height + 100 * width)
    return (
        channels_last(images, channels[0], height, width),
        torch.randn(channels[1], channels[0], 3, 3, dtype=torch.float64),
        torch.randn(channels[1], dtype=torch.float64),
        channels_last(images, channels[1], height, width),
    )


def exact(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """The output and the gradients by input and weight, in the dtype of the arguments, from torch."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = F.conv2d(x, weight, bias, padding=1)
    return [out.detach(), *torch.autograd.grad(out, [x, weight], grad)]


def found(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    return [conv3x3(x, weight, bias), conv3x3_input_gradient(grad, weight), conv3x3_weight_gradient(grad, x)]


def in_float32(values: Case) -> Case:
    x, weight, bias, grad = (value.float() for value in values)
    return x, weight, bias, grad


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("channels", [(8, 8), (16, 24), (24, 8)])
def test_odd_and_even_sizes(images: int, channels: tuple[int, int]) -> None:
    for height, width in itertools.product((1, 2, 3, 6), (1, 2, 5, 8)):
        values = case(images, channels, height, width)
        for ours, expected in zip(found(*in_float32(values)), exact(*values), strict=True):
            assert ours.shape == expected.shape
            torch.testing.assert_close(
                ours.double(), expected, rtol=0, atol=3e-6 * expected.abs().max().item()
            )


def test_many_tiles_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = case(3, (8, 16), 14, 9)
    whole = found(*in_float32(values))
    monkeypatch.setattr(winograd, "_VALUES", 16 * 16 * 25)  # 25 of 3 * 7 * 5 tiles at a time
    for ours, expected in zip(found(*in_float32(values)), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole[0].double(), exact(*values)[0], rtol=1e-5, atol=1e-5)


def test_float32_is_as_close_to_float64_as_the_librarys() -> None:
    values = case(4, (64, 64), 20, 20)
    for ours, library, expected in zip(
        found(*in_float32(values)), exact(*in_float32(values)), exact(*values), strict=True
    ):
        assert (ours.double() - expected).norm() < 2 * (library.double() - expected).norm()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    values, threads = in_float32(case(2, (64, 32), 33, 31)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = found(*values)
        torch.set_num_threads(3)
        for ours, expected in zip(found(*values), one, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_without_bias_and_without_images() -> None:
    x, weight, bias, grad = in_float32(case(2, (8, 8), 4, 4))
    expected = conv3x3(x, weight, bias) - bias.view(1, -1, 1, 1)
    torch.testing.assert_close(conv3x3(x, weight), expected, rtol=1e-5, atol=1e-5)
    assert conv3x3(x[:0], weight).shape == (0, 8, 4, 4)
    assert torch.equal(conv3x3_weight_gradient(grad[:0], x[:0]), torch.zeros(8, 8, 3, 3))


def test_maps_that_it_cannot_read_are_errors() -> None:
    x, weight, bias, _ = in_float32(case(2, (8, 8), 4, 6))
    for wrong in (x.contiguous(), x.double(), x[:, :4].contiguous(memory_format=torch.channels_last)):
        with pytest.raises(RuntimeError, match="the map must"):
            conv3x3(wrong, weight[:, : wrong.shape[-3]], bias)
