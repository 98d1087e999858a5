"""torchvision's other networks, cut by stride, against their own `features`; images of other than three channels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
import torchvision
from torch import nn

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.resnet import ResNet
from maskrcnn.models.backbones.torchvision import TorchvisionArch, TorchvisionBackbone
from tests.models.test_detector import build

CHANNELS = {
    "vgg16": [256, 512, 512, 512],
    "mobilenet_v2": [24, 32, 96, 1280],
    "mobilenet_v3_large": [24, 40, 112, 960],
    "mobilenet_v3_small": [16, 24, 48, 576],
    "convnext_tiny": [96, 192, 384, 768],
    "swin_t": [96, 192, 384, 768],
}


def quick(archs: Iterable[str]) -> list[Any]:
    """The networks as parameters, of which the large ones are slow."""
    large = ("vgg", "swin", "convnext")
    return [pytest.param(arch, marks=pytest.mark.slow if arch.startswith(large) else ()) for arch in archs]


@pytest.mark.parametrize("arch", quick(CHANNELS))
def test_the_maps_are_those_of_torchvisions_network(arch: Any) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, arch)().eval()
    torch.manual_seed(0)
    ours = TorchvisionBackbone(arch).eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        last = theirs.features(pixels)
        found = ours(pixels)
    shapes = {stride: tuple(feature.shape) for stride, feature in found.items()}
    assert shapes == {
        stride: (1, channels, 64 // stride, 96 // stride)
        for stride, channels in zip((4, 8, 16, 32), CHANNELS[arch], strict=True)
    }
    expected = last.permute(0, 3, 1, 2) if arch == "swin_t" else last
    torch.testing.assert_close(found[32], expected)


@pytest.mark.parametrize("arch", quick(get_args(TorchvisionArch)))
def test_every_network_halves_its_map_from_stage_to_stage(arch: Any) -> None:
    """Every layer of a stage has its map's size, so each stage ends with the last layer of its stride."""
    with torch.device("meta"):  # shapes without memory or arithmetic
        net = TorchvisionBackbone(arch).eval()
    assert [set(stage_sizes(net, stage)) for stage in net.stages[1:]] == [{16}, {8}, {4}, {2}]


def stage_sizes(net: TorchvisionBackbone, stage: nn.Module) -> list[int]:
    """Sides of the map after each layer of a stage, for an input of 64 x 64."""
    x = torch.zeros(1, 3, 64, 64, device="meta")
    for other in net.stages:
        if other is stage:
            sizes = []
            for layer in cast(nn.Sequential, other):
                x = layer(x)
                sizes.append(x.shape[1] if net.channels_last else x.shape[-1])
            return sizes
        x = other(x)
    raise AssertionError


@pytest.mark.slow
def test_vgg_ends_at_conv5_3_with_stride_16() -> None:
    net = TorchvisionBackbone("vgg16", last_stride=16).eval()
    theirs = torchvision.models.vgg16().eval()
    theirs.features.load_state_dict(
        {
            f"{i}.{n}": v
            for i, layer in enumerate(x for s in net.stages for x in s)
            for n, v in layer.state_dict().items()
        }  # type: ignore[attr-defined, union-attr]
    )
    pixels = torch.randn(1, 3, 64, 64)
    found = net(pixels)
    assert sorted(found) == [4, 8, 16]
    torch.testing.assert_close(found[16], theirs.features[:30](pixels))


def test_weights_norms_and_frozen_stages(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.mobilenet_v2().eval()
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    ours = TorchvisionBackbone("mobilenet_v2", weights=str(tmp_path / "m.pth")).eval()
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(pixels)[32], theirs.features(pixels), atol=1e-4, rtol=1e-3)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in ours.modules())
    assert [all(not p.requires_grad for p in stage.parameters()) for stage in ours.stages] == [
        True,
        True,
        False,
        False,
        False,
    ]
    groups = [
        m for m in TorchvisionBackbone("mobilenet_v2", norm="gn").modules() if isinstance(m, nn.GroupNorm)
    ]
    assert len(groups) == 52
    with pytest.raises(UserError, match="norm=gn has no pretrained"):
        TorchvisionBackbone("mobilenet_v2", norm="gn", weights=str(tmp_path / "m.pth"))
    with pytest.raises(UserError, match="vgg16 has no batch norm"):
        TorchvisionBackbone("vgg16", norm="gn")
    with pytest.raises(UserError, match="does not hold the weights of mobilenet_v3_small"):
        TorchvisionBackbone("mobilenet_v3_small", weights=str(tmp_path / "m.pth"))


@pytest.mark.parametrize("kind", [TorchvisionBackbone, ResNet])
def test_more_channels_answer_alike_to_grey(kind: type[nn.Module], tmp_path: Path) -> None:
    """An image whose channels are all the same gets the response that grey RGB gets from the pretrained filters."""
    arch = "mobilenet_v2" if kind is TorchvisionBackbone else "resnet18"
    torch.save(getattr(torchvision.models, arch)().state_dict(), tmp_path / "w.pth")
    grey = torch.randn(1, 1, 64, 64)
    rgb, many, one = (kind(arch, weights=str(tmp_path / "w.pth"), in_channels=n).eval() for n in (3, 6, 1))
    expected = rgb(grey.expand(1, 3, 64, 64))[4]
    torch.testing.assert_close(many(grey.expand(1, 6, 64, 64))[4], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(one(grey)[4], expected, atol=1e-4, rtol=1e-3)


def test_pixel_statistics_for_every_channel() -> None:
    with pytest.raises(UserError, match=r"4 input channels, but have 3 and 3"):
        build("model.backbone.in_channels=4")
