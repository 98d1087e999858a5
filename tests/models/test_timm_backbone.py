"""timm's networks as backbones, against timm's own classifiers."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.timm import TimmBackbone
from tests.models.batches import random_images, random_targets
from tests.models.test_detector import build

timm = pytest.importorskip("timm")
LITE0 = (
    Path(os.environ.get("MASKRCNN_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")).parent
    / "weights"
    / "tf_efficientnet_lite0.pth"
)


def seeded(name: str) -> Any:
    """timm's classifier with weights and statistics that differ from the initial ones."""
    torch.manual_seed(3)
    net = timm.create_model(name).eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    return net


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_gives_the_classifiers_own_maps(suffix: str, tmp_path: Path) -> None:
    theirs, path = seeded("resnet18"), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(theirs.state_dict(), path)
    ours = TimmBackbone("timm/resnet18", weights=str(path))
    pixels = torch.randn(2, 3, 64, 96)
    maps = ours.train()(pixels)  # frozen norms: training mode changes nothing
    assert {stride: tuple(x.shape) for stride, x in maps.items()} == {
        stride: (2, channels, 64 // stride, 96 // stride) for stride, channels in ours.channels.items()
    }
    with torch.no_grad():
        torch.testing.assert_close(maps[32], theirs.forward_features(pixels), atol=1e-4, rtol=1e-4)
    learning = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert learning == {
        f"net.{name}"
        for name, _ in theirs.named_parameters()
        if name.startswith(("layer2", "layer3", "layer4"))
        and ".bn" not in name
        and "downsample.1" not in name
    }


def test_frozen_stages_are_what_fine_maps_depend_on() -> None:
    def frozen(stages: int | None) -> set[str]:
        net = TimmBackbone("mobilenetv3_small_050", frozen_stages=stages)
        return {name for name, p in net.named_parameters() if not p.requires_grad}

    assert frozen(None) == frozen(0) == set()
    assert all(name.startswith(("net.conv_stem", "net.bn1")) for name in frozen(1))
    assert {name.split(".")[2] for name in frozen(2) - frozen(1)} == {"0"}  # the block of stride 4
    assert {name.split(".")[2] for name in frozen(3) - frozen(2)} == {"1"}


def test_norms() -> None:
    kinds = {
        norm: {
            type(m).__name__ for m in TimmBackbone("resnet18", norm=norm).modules() if "Norm" in str(type(m))
        }  # type: ignore[arg-type]
        for norm in ("auto", "bn", "frozen_bn", "sync_bn")
    }
    assert kinds["auto"] == kinds["bn"] == {"BatchNorm2d"}
    assert kinds["frozen_bn"] == {"FrozenBatchNorm2d"}
    assert kinds["sync_bn"] == {"SyncBatchNorm"}


def test_the_maps_end_at_the_last_stride() -> None:
    net = TimmBackbone("tf_efficientnet_lite0", last_stride=16)
    assert net.channels == {4: 24, 8: 40, 16: 112}
    assert sorted(net(torch.zeros(2, 3, 32, 32))) == [4, 8, 16]
    assert net.pixel_mean == net.pixel_std == [127.5] * 3


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(seeded("resnet18").state_dict(), tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, path, expected in [
        ("resnet34", tmp_path / "w.pth", "does not hold the weights of timm's resnet34"),
        ("resnet18", tmp_path / "list.pth", "hold no state dict"),
        ("resnet18", tmp_path / "text.pth", "cannot be read as a state dict"),
        ("resnet18", tmp_path / "none.pth", "no such file"),
    ]:
        with pytest.raises(UserError, match=expected):
            TimmBackbone(name, weights=str(path))


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UserError, match="did you mean tf_efficientnet_lite0"):
        TimmBackbone("tf_eficientnet_lite0")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "timm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'maskrcnn\[timm\]'"):
        TimmBackbone("resnet18")


@pytest.mark.skipif(not LITE0.is_file(), reason=f"{LITE0} is not here")
def test_the_pretrained_lite0_computes_what_timm_computes() -> None:
    theirs = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(LITE0)).eval()
    ours = TimmBackbone("tf_efficientnet_lite0", weights=str(LITE0))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    found: list[Tensor] = []
    theirs.blocks[-1].register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        theirs(pixels)
        torch.testing.assert_close(ours(pixels)[32], found[0], atol=1e-4, rtol=1e-4)


FAMILIES: dict[str, dict[str, bool]] = {
    "resnet10t": {},
    "tf_efficientnet_lite0": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
    "regnety_002": {},
    "densenet121": {},
    "hrnet_w18_small": {},
    "edgenext_xx_small": {},
    "pvt_v2_b0": {},
    "swin_tiny_patch4_window7_224": {"strict_img_size": False},
    "vit_tiny_patch16_224": {"dynamic_img_size": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_train_a_step(name: str) -> None:
    """Maps as announced, then a step of Mask R-CNN whose gradient reaches the whole backbone."""
    single = name.startswith("vit_")  # one stride alone
    options = ",".join(f"{key}:{str(value).lower()}" for key, value in FAMILIES[name].items())
    overrides = [f"model.backbone.name={name}", f"model.backbone.options={{{options}}}"]
    overrides += ["model=lite0_c4"] if single else ["model=lite0_fpn"]
    model = build(*overrides, "model.sampler.num_samples=16", "model.rpn.post_nms_train=20")
    backbone = model.backbone
    assert isinstance(backbone, TimmBackbone)
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert {stride: tuple(x.shape[1:]) for stride, x in maps.items()} == {
        stride: (channels, 64 // stride, 96 // stride) for stride, channels in backbone.channels.items()
    }
    assert list(backbone.channels) == ([16] if single else [4, 8, 16, 32])
    first = next(backbone.parameters())
    before = first.detach().clone()
    losses = model.train().losses(random_images(2, 64), random_targets(2, 64))
    sum(loss.total for loss in losses.values()).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(first, before)
    reached = [p.grad is not None and bool(p.grad.isfinite().all()) for p in backbone.parameters()]
    assert sum(reached) > 0.95 * len(reached)
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    terms = ", ".join(f"{term} {loss.total.item():.2f}" for term, loss in losses.items())
    print(f"{name}: {count:.1f} M parameters, channels {backbone.channels}, {terms}")
