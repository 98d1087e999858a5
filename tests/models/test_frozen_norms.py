"""Frozen norms folded into convolutions, against the same networks with their norms as they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from maskrcnn_ops import winograd_is_available
from torch import Tensor, nn

from maskrcnn.models import convolution
from maskrcnn.models.backbones.folded import Folded, fold_frozen_norms
from maskrcnn.models.backbones.timm import TimmBackbone
from maskrcnn.models.backbones.torchvision import TorchvisionBackbone

timm = pytest.importorskip("timm", reason="the extra maskrcnn[timm] is not installed")
FrozenBatchNormAct2d = timm.layers.FrozenBatchNormAct2d


def frozen(name: str) -> Any:
    """timm's network in float64 with frozen norms that scale and shift."""
    from timm.utils.model import freeze_batch_norm_2d

    torch.manual_seed(0)
    net = freeze_batch_norm_2d(timm.create_model(name, features_only=True)).double().eval()
    for key, buffer in net.named_buffers():
        low, high = (0.5, 1.5) if key.endswith(("running_var", "weight")) else (-0.2, 0.2)
        buffer.uniform_(low, high)
    return net


def values(net: nn.Module, pixels: Tensor) -> list[Tensor]:
    """The maps and the gradients of all parameters."""
    maps = list(net(pixels))
    total = torch.stack([x.square().mean() for x in maps]).sum()
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return maps + [torch.zeros(()) if g is None else g for g in gradients]


# resnetv2_50 adds what its norms read to their blocks' outputs, and densenet121 concatenates it: not all can be folded.
@pytest.mark.parametrize(
    ("name", "norms", "folded"),
    [("tf_efficientnet_lite0", 48, 48), ("resnet18", 20, 20), ("vgg11_bn", 8, 8), ("resnetv2_50", 48, 32)],
)
def test_maps_and_gradients_are_those_of_the_norms(name: str, norms: int, folded: int) -> None:
    net = frozen(name)
    assert sum("FrozenBatchNorm" in type(module).__name__ for module in net.modules()) == norms
    pixels, whole = torch.randn(2, 3, 64, 96, dtype=torch.float64), copy.deepcopy(net)
    assert fold_frozen_norms(net, FrozenBatchNormAct2d) == folded
    assert net.state_dict().keys() == whole.state_dict().keys()
    for found, expected in zip(values(net, pixels), values(whole, pixels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_loaded_values_and_copies_count() -> None:
    net, other = frozen("resnet18"), frozen("resnet18")
    assert fold_frozen_norms(net, FrozenBatchNormAct2d) == 20
    for buffer in other.buffers():
        buffer.mul_(1.25)
    pixels, kept = torch.randn(1, 3, 64, 64, dtype=torch.float64), copy.deepcopy(net)
    before = net(pixels)[-1]
    net.load_state_dict(other.state_dict())
    torch.testing.assert_close(net(pixels)[-1], other(pixels)[-1])
    torch.testing.assert_close(kept(pixels)[-1], before)
    assert not torch.allclose(before, net(pixels)[-1])


def test_a_network_that_cannot_be_traced_keeps_its_norms() -> None:
    class Depends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = frozen("resnet18")

        def forward(self, x: Tensor) -> Any:
            return self.net(x) if x.sum() > 0 else self.net(-x)

    net, pixels = Depends(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = net(pixels)[-1]
    assert fold_frozen_norms(net, FrozenBatchNormAct2d) == 0
    assert torch.equal(net(pixels)[-1], before)


@pytest.mark.skipif(
    not winograd_is_available(), reason="needs the compiled CPU kernels (C++ compiler at installation)"
)
def test_fast_convolutions_apply_the_norms_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(convolution, "_LEAST_CELLS", 1)
    net = frozen("resnet18").float().to(memory_format=torch.channels_last)
    fold_frozen_norms(net, FrozenBatchNormAct2d)
    pixels = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    expected = values(net, pixels)
    assert convolution.use_fast_convolutions(net) == 13  # 3x3 with stride 1
    for found, wanted in zip(values(net, pixels), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("arch", "folded"), [("mobilenet_v3_small", 34), pytest.param("vgg16_bn", 13, marks=pytest.mark.slow)]
)
def test_torchvisions_networks(arch: Any, folded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = TorchvisionBackbone(arch, norm="frozen_bn").double()
    monkeypatch.setattr("maskrcnn.models.backbones.torchvision.fold_frozen_norms", lambda features: 0)
    whole = TorchvisionBackbone(arch, norm="frozen_bn").double()
    for key, buffer in net.named_buffers():
        buffer.uniform_(*((0.5, 1.5) if key.endswith(("running_var", "weight")) else (-0.2, 0.2)))
    whole.load_state_dict(net.state_dict())
    assert sum(isinstance(module, Folded) for module in net.modules()) == folded
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for stride, expected in whole(pixels).items():
        torch.testing.assert_close(net(pixels)[stride], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_compiled() -> None:
    torch.manual_seed(0)
    net = TimmBackbone("tf_efficientnet_lite0", norm="frozen_bn")
    pixels = torch.randn(1, 3, 64, 64)
    whole = torch.compile(net, fullgraph=True)
    for stride, map_ in net(pixels).items():
        torch.testing.assert_close(whole(pixels)[stride], map_, rtol=1e-4, atol=1e-4)
