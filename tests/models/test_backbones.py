"""Backbones against torchvision's networks; weights from files; what cannot be had, in words."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.resnet import Arch, ResNet
from maskrcnn.models.heads.trunks import Res5Trunk


def saved_weights(tmp_path: Path, arch: str) -> tuple[Path, nn.Module]:
    torch.manual_seed(1)
    net = getattr(torchvision.models, arch)(num_classes=1000)
    path = tmp_path / f"{arch}.pth"
    torch.save(net.state_dict(), path)
    return path, net.eval()


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_stages_equal_torchvisions_with_weights_from_a_file(tmp_path: Path, arch: str) -> None:
    path, net = saved_weights(tmp_path, arch)
    ours = ResNet(arch, norm="frozen_bn", weights=str(path)).eval()  # type: ignore[arg-type]
    pixels = torch.randn(1, 3, 64, 96)
    layers = {"layer1": "4", "layer2": "8", "layer3": "16", "layer4": "32"}
    expected = create_feature_extractor(net, layers)(pixels)
    found = ours(pixels)
    assert sorted(found) == [4, 8, 16, 32]
    for stride, feature in found.items():
        torch.testing.assert_close(feature, expected[str(stride)], atol=1e-4, rtol=1e-4)


def test_pretrained_stages_freeze_and_scratch_ones_learn(tmp_path: Path) -> None:
    path, _ = saved_weights(tmp_path, "resnet18")
    pretrained, scratch = ResNet("resnet18", weights=str(path)), ResNet("resnet18")
    assert {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, p in pretrained.named_parameters()
        if not p.requires_grad
    } == {
        "stem.0",
        "stages.res2",
    }
    assert all(p.requires_grad for p in scratch.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in pretrained.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in scratch.modules())


@pytest.mark.parametrize(
    ("norm", "layer"), [("gn", nn.GroupNorm), ("sync_bn", nn.SyncBatchNorm), ("bn", nn.BatchNorm2d)]
)
def test_norms(norm: str, layer: type[nn.Module]) -> None:
    assert any(isinstance(m, layer) for m in ResNet("resnet18", norm=norm).modules())  # type: ignore[arg-type]


def test_dilated_res5_keeps_stride_16_and_its_map_is_res5s() -> None:
    net = ResNet("resnet50", dilated=True).eval()
    found = net(torch.randn(1, 3, 64, 64))
    assert {stride: tuple(f.shape[1:]) for stride, f in found.items()} == {
        4: (256, 16, 16),
        8: (512, 8, 8),
        16: (2048, 4, 4),
    }
    with pytest.raises(UserError, match="bottleneck"):
        ResNet("resnet18", dilated=True)


@pytest.mark.parametrize(("arch", "channels"), [("resnet18", (256, 512)), ("resnet50", (1024, 2048))])
def test_res5_head_variants(arch: str, channels: tuple[int, int]) -> None:
    paper, released = Res5Trunk(arch, stride=1), Res5Trunk(arch, stride=2)  # type: ignore[arg-type]
    assert paper(torch.randn(2, channels[0], 7, 7)).shape == (2, channels[1], 7, 7)
    assert released(torch.randn(2, channels[0], 14, 14)).shape == (2, channels[1], 7, 7)
    assert paper.out_channels == channels[1]


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_empty_regions_are_no_part_of_res5s_batch_norm(arch: Arch) -> None:
    """Regions padded with empty ones against torchvision's own layers on the regions alone."""
    torch.manual_seed(0)
    trunk = Res5Trunk(arch, norm="bn", stride=2).double().train()
    plain = copy.deepcopy(trunk.res5)
    regions = torch.rand(3, 256 if arch == "resnet18" else 1024, 6, 6, dtype=torch.float64)
    padded = torch.cat([regions, torch.zeros_like(regions)]).requires_grad_()
    regions.requires_grad_()
    found, expected = trunk(padded)[:3], plain(regions)
    torch.testing.assert_close(found, expected)
    for out, given in ((found, padded), (expected, regions)):
        out.square().sum().backward()
        assert given.grad is not None
    torch.testing.assert_close(padded.grad[:3], regions.grad)
    assert not padded.grad[3:].any()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(trunk.res5.state_dict()[name], value)
    for one, other in zip(trunk.res5.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_synchronised_norm_of_regions_is_refused() -> None:
    with pytest.raises(UserError, match="sync_bn would count empty regions"):
        Res5Trunk("resnet18", norm="sync_bn")


def test_missing_and_foreign_weights_in_words(tmp_path: Path) -> None:
    path, _ = saved_weights(tmp_path, "resnet18")
    with pytest.raises(UserError, match="no such file"):
        ResNet("resnet18", weights=str(tmp_path / "absent.pth"))
    with pytest.raises(UserError, match="does not hold the weights of resnet34"):
        ResNet("resnet34", weights=str(path))
    with pytest.raises(UserError, match="norm=gn has no pretrained"):
        ResNet("resnet18", norm="gn", weights=str(path))
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        ResNet("resnet18", weights="imagenet21k")
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        ResNet("resnet18", weights=str(tmp_path / "broken.pth"))


def test_an_offline_machine_is_told_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"(?s)Fetch https://\S+resnet18\S+ .*weights=null"):
        ResNet("resnet18", weights="imagenet")
