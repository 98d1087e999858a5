"""Folded norms against the same network computed layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn.models.backbones.resnet import Arch, ResNet


def network(arch: Arch = "resnet50", frozen_stages: int = 0) -> ResNet:
    """In float64, with norms that scale and shift."""
    torch.manual_seed(0)
    net = ResNet(arch, norm="frozen_bn", frozen_stages=frozen_stages).double()
    for norm in net.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            for buffer in (norm.weight, norm.running_var):
                buffer.copy_(0.5 + torch.rand(buffer.shape))
            for buffer in (norm.bias, norm.running_mean):
                buffer.copy_(torch.randn(buffer.shape) * 0.1)
    return net


def layer_by_layer(net: ResNet, pixels: Tensor) -> dict[int, Tensor]:
    x, maps = nn.Sequential.forward(net.stem, pixels), {}
    for stride, stage in zip(net.strides, net.stages.values(), strict=True):
        maps[stride] = x = nn.Sequential.forward(stage, x)
    return maps


def assert_same(net: ResNet, pixels: Tensor) -> None:
    for map_, expected in zip(net(pixels).values(), layer_by_layer(net, pixels).values(), strict=True):
        torch.testing.assert_close(map_, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_maps_and_gradients_are_those_of_the_layers(arch: Arch, frozen_stages: int) -> None:
    net, pixels = network(arch, frozen_stages), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    learning = [p for p in net.parameters() if p.requires_grad]
    gradients = []
    for forward in (net, lambda pixels: layer_by_layer(net, pixels)):
        total = sum(map_.square().mean() for map_ in forward(pixels).values())
        gradients.append(torch.autograd.grad(total, learning))
    assert len(learning) == len(list(net.parameters())) or frozen_stages
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_what_is_kept_between_calls_follows_the_weights_and_norms() -> None:
    net, pixels = network(frozen_stages=2), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert_same(net, pixels)
        for tensor in (net.stages["res4"][0].conv1.weight, net.stages["res2"][0].conv1.weight):
            tensor.mul_(1.5)  # an optimizer's step
            assert_same(net, pixels)
        net.stages["res3"][1].bn2.running_var.mul_(2)
        assert_same(net, pixels)
        twin = copy.deepcopy(net)
        twin.load_state_dict({k: v * 1.1 for k, v in net.state_dict().items()})
        assert_same(twin, pixels)
        assert_same(net, pixels)
    assert net(pixels)[32].requires_grad


def test_half_precision_stays_half() -> None:
    """A norm of its own would raise the maps to float32 under autocast."""
    net = network().float()
    with torch.autocast("cpu", torch.bfloat16):
        maps = net(torch.randn(1, 3, 64, 64))
    assert {map_.dtype for map_ in maps.values()} == {torch.bfloat16}


def test_names_are_those_of_the_network_without_folding() -> None:
    folded, plain = network().state_dict(), ResNet("resnet50", norm="bn").state_dict()
    assert list(folded) == [name for name in plain if not name.endswith("num_batches_tracked")]
