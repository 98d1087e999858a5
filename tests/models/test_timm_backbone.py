"""timm's networks as backbones, against timm's own classifiers."""

from __future__ import annotations

import builtins
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn import mask_rcnn
from maskrcnn.config.compose import compose_config, plain
from maskrcnn.errors import UserError
from maskrcnn.models.backbones.timm import TimmBackbone
from tests.models.batches import random_images, random_targets
from tests.models.test_detector import build

timm = pytest.importorskip("timm", reason="the extra maskrcnn[timm] is not installed")
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


@pytest.mark.parametrize("frozen_stages", [0, 2])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_every_trained_parameter_gets_a_gradient(name: str, frozen_stages: int) -> None:
    """Processes that average gradients wait for those of all trained parameters."""
    net = TimmBackbone(name, last_stride=16, frozen_stages=frozen_stages)
    torch.cat([x.flatten() for x in net(torch.randn(2, 3, 64, 64)).values()]).square().sum().backward()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name for name, p in net.named_parameters() if p.grad is not None} == trained
    assert trained


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


@pytest.mark.skipif(not LITE0.is_file(), reason=f"the pretrained weights {LITE0} are not here")
def test_the_pretrained_lite0_computes_what_timm_computes() -> None:
    theirs = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(LITE0)).eval()
    ours = TimmBackbone("tf_efficientnet_lite0", weights=str(LITE0))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    found: list[Tensor] = []
    theirs.blocks[-1].register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        theirs(pixels)
        torch.testing.assert_close(ours(pixels)[32], found[0], atol=1e-4, rtol=1e-4)


SMALL = ["model.sampler.num_samples=16", "model.rpn.post_nms_train=20"]
FAMILIES = [
    "resnet10t",
    "resnet18d",
    "resnext26ts",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "convnext_atto",
    "regnety_002",
    "densenet121",
    "hrnet_w18_small",
    "edgenext_xx_small",
    "pvt_v2_b0",
    "swin_tiny_patch4_window7_224",  # maps [N, H, W, C]
]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["r18_fpn", "r18_c4_fpnhead"])
@pytest.mark.parametrize("name", [*FAMILIES, "vit_tiny_patch16_224"])
def test_families_train_a_step(name: str, model: str) -> None:
    """Maps as announced, then a step of Mask R-CNN whose gradient reaches the whole backbone."""
    single = name.startswith("vit_")  # one stride alone
    if single and model == "r18_fpn":
        with pytest.raises(
            UserError, match=r"needs maps of several strides, but the backbone has 1, as plain vision"
        ):
            build(f"model={model}", f"model.backbone.name=timm/{name}")
        return
    detector = build(f"model={model}", f"model.backbone.name=timm/{name}", *SMALL)
    backbone = detector.backbone
    assert isinstance(backbone, TimmBackbone)
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert {stride: tuple(x.shape[1:]) for stride, x in maps.items()} == {
        stride: (channels, 64 // stride, 96 // stride) for stride, channels in backbone.channels.items()
    }
    strides = [4, 8, 16, 32] if model == "r18_fpn" else [4, 8, 16]
    assert list(backbone.channels) == ([16] if single else strides)
    first = next(backbone.parameters())
    before = first.detach().clone()
    losses = detector.train().losses(random_images(2, 64), random_targets(2, 64))
    sum(loss.total for loss in losses.values()).backward()
    torch.optim.SGD(detector.parameters(), lr=0.1).step()
    assert not torch.equal(first, before)
    reached = [p.grad is not None and bool(p.grad.isfinite().all()) for p in backbone.parameters()]
    # timm's EfficientNets, MobileNets and HRNets keep the stages behind the last map that is asked for.
    least = 0.65 if backbone.strides[-1] == 16 and not single else 0.95
    assert sum(reached) > least * len(reached)
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    terms = ", ".join(f"{term} {loss.total.item():.2f}" for term, loss in losses.items())
    print(f"{name}: {count:.1f} M parameters, channels {backbone.channels}, {terms}")


def test_a_name_of_timm_replaces_the_backbone_of_any_config() -> None:
    config = compose_config(
        "train",
        [
            "model=r50_fpn",
            "model.backbone.frozen_stages=1",
            "model.backbone.name=timm/tf_efficientnet_lite0",
            "model.backbone.norm=bn",
            "model.backbone.last_stride=32",
        ],
    )
    assert plain(config.model.backbone) == {
        "_target_": "maskrcnn.models.backbones.timm.TimmBackbone",
        "name": "timm/tf_efficientnet_lite0",
        "norm": "bn",
        "weights": None,
        "frozen_stages": 1,
        "in_channels": 3,
        "last_stride": 32,
        "options": None,
    }
    # Its own normalisation, not ImageNet's.
    assert plain(config.model.pixel_mean) == plain(config.model.pixel_std) == [127.5] * 3
    given = compose_config(
        "train", ["model.pixel_mean=[1,2,3]", "model.backbone.name=timm/resnet18", "model=lite0_c5"]
    )
    assert plain(given.model.pixel_mean) == [1, 2, 3]
    assert plain(given.model.pixel_std) == pytest.approx([58.395, 57.12, 57.375])
    assert given.model.backbone.last_stride == 32
    fpn = compose_config("train", ["model=mobilenet_v3_fpn", "model.backbone.name=timm/convnext_atto"])
    assert fpn.model.backbone.name == "timm/convnext_atto"


def test_init_imagenet_pretrains_and_freezes_it() -> None:
    config = compose_config("train", ["model=r18_fpn", "model.backbone.name=timm/resnet18", "init=imagenet"])
    backbone = config.model.backbone
    assert (backbone.weights, backbone.norm, backbone.frozen_stages) == ("imagenet", "frozen_bn", 2)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("r50_c4", "the heads of this model are the res5 of a residual network; take model=r50_c4_fpnhead"),
        ("r50_dc5", "this model dilates the res5 of a residual network"),
        ("torchvision_mask_rcnn", ""),
    ],
)
def test_models_that_need_a_residual_network(model: str, words: str) -> None:
    overrides = [f"model={model}", "model.backbone.name=timm/resnet18"]
    if words:
        with pytest.raises(UserError, match=words):
            compose_config("train", overrides)
    else:
        assert compose_config("train", overrides).model.backbone.name == "timm/resnet18"


def test_a_wrong_name_of_a_config_is_answered_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"has no network 'resnet_18'; did you mean .*resnet18"):
        compose_config("train", ["model=r50_fpn", "model.backbone.name=timm/resnet_18"])
    with pytest.raises(UserError, match=r"unknown key 'model.backbone.name'"):
        compose_config("train", ["model=r50_fpn", "model.backbone.name=resnet18"])


@pytest.mark.parametrize("pyramid", ["fpn", "c5"])
def test_in_python(pyramid: str) -> None:
    detector = mask_rcnn("timm/mobilenetv3_small_050", num_classes=3, pyramid=pyramid, small=True)  # type: ignore[arg-type]
    losses = detector.train().losses(random_images(2, 64), random_targets(2, 64))
    assert all(bool(loss.total.isfinite()) for loss in losses.values())
    assert detector.eval().detect(random_images(1, 64)).boxes.shape[-1] == 4
    with pytest.raises(UserError, match="res5 of a residual network in its heads"):
        mask_rcnn("timm/mobilenetv3_small_050", pyramid="c4")


@pytest.mark.slow
def test_swin_with_a_file_of_weights_is_frozen_up_to_its_first_stage(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    theirs = seeded(name)
    torch.save(theirs.state_dict(), tmp_path / "swin.pth")
    ours = TimmBackbone(name, weights=str(tmp_path / "swin.pth"))
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_features(pixels)  # [N, H, W, C], after the last norm
        found = theirs.norm(ours.eval()(pixels)[32].permute(0, 2, 3, 1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    frozen = {n.split(".")[1] for n, p in ours.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed", "layers_0"}
    assert ours.net.layers_1.blocks[0].attn.qkv.weight.requires_grad


def test_without_a_network_the_download_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub.constants", reason="the extra maskrcnn[hub] is not installed")
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(
        hub, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its attempts
    with pytest.raises(
        UserError, match=r"weights of timm's resnet18 could not be downloaded .*\n.*backbone.weights=FILE"
    ):
        TimmBackbone("resnet18", weights="imagenet")
