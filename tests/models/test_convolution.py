"""Layers that use Winograd's method against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from maskrcnn_ops import winograd_is_available
from torch import Tensor, nn

from maskrcnn.models import convolution
from maskrcnn.models.backbones.folded import FrozenStage
from maskrcnn.models.backbones.resnet import ResNet
from maskrcnn.models.convolution import Conv2d, use_fast_convolutions

pytestmark = pytest.mark.skipif(
    not winograd_is_available(), reason="needs the compiled CPU kernels (C++ compiler at installation)"
)


def channels_last(*size: int) -> Tensor:
    return torch.randn(*size).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of few channels and small maps count too, on any CPU."""
    monkeypatch.setattr(convolution, "_LEAST_CHANNELS", 1)
    monkeypatch.setattr(convolution, "_LEAST_CELLS", 1)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def pair() -> tuple[nn.Module, nn.Module]:
    """A layer of the library's and its copy that uses Winograd's method."""
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 8, 3, padding=1)
    other = copy.deepcopy(layer)
    assert use_fast_convolutions(nn.Sequential(other)) == 1
    return layer, other


@pytest.mark.usefixtures("any_size")
def test_all_gradients_of_a_layer_and_gradients_of_gradients() -> None:
    found = []
    for layer in pair():
        torch.manual_seed(0)
        x = channels_last(2, 16, 9, 6).requires_grad_()
        out = layer(x)
        inputs = [x, *layer.parameters()]
        first = torch.autograd.grad(out.sin().sum(), inputs, retain_graph=True)
        again = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in again), inputs)
        found.append([out, *first, *again, *second])
    assert type(out.grad_fn).__name__ == "_Convolution3x3Backward"
    for ours, library in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, library, rtol=1e-4, atol=1e-4 * library.abs().max().item())


@pytest.mark.usefixtures("any_size")
def test_a_residual_network_learns_the_same_and_keeps_its_names() -> None:
    torch.manual_seed(0)
    for norm in ("bn", "frozen_bn"):
        net = ResNet("resnet18", norm=norm, frozen_stages=0).to(memory_format=torch.channels_last)
        other = copy.deepcopy(net)
        assert use_fast_convolutions(other) == 13  # of stride 1; the other seven are 7x7, 1x1 or of stride 2
        assert list(other.state_dict()) == list(net.state_dict())
        assert any(isinstance(m, FrozenStage) for m in other.modules()) == (norm == "frozen_bn")
        x = channels_last(2, 3, 64, 64)
        for model in (net, other):
            sum(maps.square().mean() for maps in model(x).values()).backward()  # type: ignore[union-attr]
        for ours, library in zip(other.parameters(), net.parameters(), strict=True):
            assert library.grad is not None
            atol = 1e-3 * library.grad.abs().max().item()
            torch.testing.assert_close(ours.grad, library.grad, rtol=1e-3, atol=atol)


@pytest.mark.usefixtures("any_size")
def test_everything_else_is_left_to_the_library() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, 1, 2, 2),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 7),
        nn.Conv2d(8, 12, 3, padding=1),
    )
    assert use_fast_convolutions(model) == 0
    _, layer = pair()
    x = channels_last(2, 16, 8, 8)
    assert type(layer) is Conv2d
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    for maps in (out, layer(x.contiguous()), layer(x[:, :, :7]), copy.deepcopy(layer).double()(x.double())):
        assert type(maps.grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.usefixtures("any_size")
def test_without_gradients_and_with_frozen_weights() -> None:
    layer, other = pair()
    x = channels_last(2, 16, 8, 8)
    with torch.no_grad():
        assert other(x).grad_fn is None
        torch.testing.assert_close(other(x), layer(x), rtol=1e-5, atol=1e-5)
    other.requires_grad_(False)
    assert not other(x).requires_grad
    given = x.clone().requires_grad_()
    other(given).sum().backward()
    expected = x.clone().requires_grad_()
    layer(expected).sum().backward()
    torch.testing.assert_close(given.grad, expected.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("any_size")
def test_compiled_layers_are_one_graph() -> None:
    layer, other = pair()
    x = channels_last(2, 16, 8, 8)
    torch.compile(other, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    layer(x).square().sum().backward()
    torch.testing.assert_close(other.weight.grad, layer.weight.grad)


def test_small_maps_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    layer = nn.Conv2d(128, 128, 3, padding=1)
    assert use_fast_convolutions(layer) == 1
    names = [type(layer(channels_last(1, 128, 16, side)).grad_fn).__name__ for side in (15, 16)]
    assert names == ["ConvolutionBackward0", "_Convolution3x3Backward"]


@pytest.mark.parametrize(("capability", "changed"), [("AVX512", 0), ("AVX2", 1), ("DEFAULT", 1)])
def test_cpus_with_avx512_keep_the_librarys(
    capability: str, changed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert use_fast_convolutions(nn.Conv2d(128, 128, 3, padding=1)) == changed
