"""Gradients of convolutions' weights by matrix products against the library's in float64."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.models import convolution
from maskrcnn.models.backbones.folded import FrozenStage
from maskrcnn.models.backbones.resnet import ResNet
from maskrcnn.models.convolution import Conv2d, use_matrix_products, weight_gradient

KINDS = list(itertools.product((1, 3), (1, 2)))  # kernel, stride


def channels_last(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of few channels count too, on any CPU."""
    monkeypatch.setattr(convolution, "_LEAST_CHANNELS", {1: 1, 3: 1})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.parametrize(("kernel", "stride"), KINDS)
def test_the_gradient_is_the_librarys(kernel: int, stride: int) -> None:
    for images, height, width in itertools.product((1, 2, 3), (1, 2, 3, 6), (1, 2, 3, 5)):
        x = channels_last(images, 5, stride * height, stride * width)
        grad = channels_last(images, 4, height, width)
        weight = torch.zeros(4, 5, kernel, kernel, dtype=torch.float64, requires_grad=True)
        nn.functional.conv2d(x, weight, None, stride, kernel // 2).backward(grad)
        torch.testing.assert_close(weight_gradient(x, grad, kernel, stride), weight.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(2, 128, 64, 64), (16, 128, 14, 14)])
def test_float32_is_as_close_to_float64_as_the_librarys(size: tuple[int, int, int, int]) -> None:
    x, grad = channels_last(*size, dtype=torch.float32), channels_last(*size, dtype=torch.float32)
    weight = torch.zeros(128, 128, 3, 3, requires_grad=True)
    nn.functional.conv2d(x, weight, padding=1).backward(grad)
    assert weight.grad is not None
    exact = weight_gradient(x.double(), grad.double(), 3, 1)
    ours, theirs = (
        (found.double() - exact).norm() for found in (weight_gradient(x, grad, 3, 1), weight.grad)
    )
    assert ours < 2 * theirs
    assert torch.equal(weight_gradient(x, grad, 3, 1), weight_gradient(x, grad, 3, 1))


def pair(kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """A layer of the library's and its copy that uses matrix products."""
    layer = nn.Conv2d(6, 4, kernel, stride, kernel // 2, dtype=torch.float64)
    other = copy.deepcopy(layer)
    assert use_matrix_products(nn.Sequential(other)) == 1
    return layer, other


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize(("kernel", "stride"), KINDS)
def test_all_gradients_of_a_layer_and_gradients_of_gradients(kernel: int, stride: int) -> None:
    found = []
    for layer in pair(kernel, stride):
        torch.manual_seed(0)
        x = channels_last(2, 6, 8, 6).requires_grad_()
        out = layer(x)
        inputs = [x, *layer.parameters()]
        first = torch.autograd.grad(out.sin().sum(), inputs, retain_graph=True)
        again = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in again), inputs)
        found.append([out, *first, *again, *second])
    assert type(out.grad_fn).__name__ == "_ConvolutionBackward"
    for ours, library in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, library, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("any_width")
def test_a_residual_network_learns_the_same_and_keeps_its_names() -> None:
    torch.manual_seed(0)
    for norm in ("bn", "frozen_bn"):
        net = ResNet("resnet18", norm=norm, frozen_stages=0).double().to(memory_format=torch.channels_last)
        other = copy.deepcopy(net)
        assert use_matrix_products(other) > 15
        assert list(other.state_dict()) == list(net.state_dict())
        assert any(isinstance(m, FrozenStage) for m in other.modules()) == (norm == "frozen_bn")
        x = channels_last(2, 3, 64, 64)
        for model in (net, other):
            sum(maps.square().mean() for maps in model(x).values()).backward()  # type: ignore[union-attr]
        for ours, library in zip(other.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, library.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("any_width")
def test_everything_else_is_left_to_the_library() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, 1, 2, 2),
        nn.Conv2d(4, 4, 7),
    )
    assert use_matrix_products(model) == 0
    layer = nn.Conv2d(4, 4, 3, 2, 1)
    use_matrix_products(layer)
    x = channels_last(2, 4, 8, 8, dtype=torch.float32)
    assert type(layer) is Conv2d
    assert "Convolution" in type(layer(x).grad_fn).__name__
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    for maps in (out, layer(x.contiguous()), layer(x[:, :, :7])):
        assert type(maps.grad_fn).__name__ == "ConvolutionBackward0"
    with torch.no_grad():
        assert layer(x).grad_fn is None
    layer.weight.requires_grad_(False)
    assert type(layer(x).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.usefixtures("any_width")
def test_compiled_layers_are_one_graph() -> None:
    layer, other = pair(3, 1)
    x = channels_last(2, 6, 8, 8)
    torch.compile(other, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    layer(x).square().sum().backward()
    torch.testing.assert_close(other.weight.grad, layer.weight.grad)


@pytest.mark.parametrize(("capability", "changed"), [("AVX512", 0), ("AVX2", 1), ("DEFAULT", 1)])
def test_cpus_with_avx512_keep_the_librarys(
    capability: str, changed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert use_matrix_products(nn.Conv2d(128, 128, 3, padding=1)) == changed
