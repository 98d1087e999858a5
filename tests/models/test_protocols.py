"""Parts of a user's own beside the built-in ones: what each must do, and that configs take both alike."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from maskrcnn_ops import RoIOp as Family
from torch import Tensor, nn

from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.errors import UserError
from maskrcnn.models.backbones.resnet import ResNet
from maskrcnn.models.backbones.torchvision import TorchvisionBackbone
from maskrcnn.models.protocols import Backbone, RoIOp
from tests.models.batches import random_images, random_targets


class Patches(nn.Module):
    """A backbone of a user's own: patches of 8 pixels, then of 16."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.channels, self.in_channels = {8: width, 16: 2 * width}, 3
        self.fine = nn.Conv2d(3, width, 8, stride=8)
        self.coarse = nn.Conv2d(width, 2 * width, 2, stride=2)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        fine = self.fine(pixels).relu()
        return {8: fine, 16: self.coarse(fine).relu()}


class Untold(Patches):
    """One that does not say how many channels it has."""

    def __init__(self) -> None:
        super().__init__()
        del self.channels


def built(arch: str) -> nn.Module:
    if arch.startswith("timm/"):
        pytest.importorskip("timm", reason="the extra maskrcnn[timm] is not installed")
        from maskrcnn.models.backbones.timm import TimmBackbone

        return TimmBackbone(arch)
    if arch == "patches":
        return Patches()
    kind = ResNet if arch.startswith("resnet") else TorchvisionBackbone
    return kind(arch, in_channels=4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arch", ["resnet18", "resnet50", "mobilenet_v3_small", "vgg16", "timm/mobilenetv3_small_050", "patches"]
)
def test_a_backbone_says_what_its_maps_have(arch: str) -> None:
    backbone = built(arch).eval()
    assert isinstance(backbone, Backbone)
    with torch.no_grad():
        maps = backbone(torch.zeros(1, backbone.in_channels, 64, 96))
    assert {stride: tuple(x.shape) for stride, x in maps.items()} == {
        stride: (1, channels, 64 // stride, 96 // stride) for stride, channels in backbone.channels.items()
    }
    assert list(backbone.channels) == sorted(backbone.channels)


def test_stages_that_are_cut_off_or_dilated() -> None:
    assert ResNet("resnet50", last_stage=4).channels == {4: 256, 8: 512, 16: 1024}
    dilated = ResNet("resnet50", dilated=True).eval()
    assert dilated.channels == {4: 256, 8: 512, 16: 2048}
    with torch.no_grad():
        assert dilated(torch.zeros(1, 3, 32, 32))[16].shape == (1, 2048, 2, 2)


MINE = """
defaults: [_parts, {pyramid}, _fpn_heads, _self_]
backbone:
  _target_: tests.models.test_protocols.{name}
rpn:
  anchors:
    sizes: {sizes}
"""


@pytest.mark.parametrize(
    ("pyramid", "sizes"), [("_fpn", "[[16], [32], [64]]"), ("_single_map", "[[16, 32]]")]
)
def test_a_backbone_of_ones_own_gives_the_model_its_channels(
    pyramid: str, sizes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs" / "model"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(MINE.format(pyramid=pyramid, sizes=sizes, name="Patches"))
    (folder / "untold.yaml").write_text(MINE.format(pyramid=pyramid, sizes=sizes, name="Untold"))
    monkeypatch.chdir(tmp_path)
    small = ["num_classes=4", "model.sampler.num_samples=8", "model.rpn.post_nms_train=10"]
    model = assembly.build_model(configs.compose_config("train", ["model=mine", *small]))
    assert isinstance(model.backbone, Patches)
    losses = model.losses(random_images(1, 64), random_targets(1, 64))
    sum(loss.total for loss in losses.values()).backward()
    assert model.backbone.coarse.weight.grad is not None
    with pytest.raises(UserError, match="has no attribute `channels`"):
        assembly.build_model(configs.compose_config("train", ["model=untold", *small]))


class Centre:
    """A RoI operator of a user's own: every cell is the value at the middle of the box."""

    def __init__(self, stride: int = 16) -> None:
        self.stride = stride

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        x, y = ((boxes[..., :2] + boxes[..., 2:]) / (2 * self.stride)).long().unbind(-1)
        image = torch.arange(len(boxes))[:, None]
        values = features[self.stride][image, :, y, x] * valid[..., None]
        return values.flatten(0, 1)[:, :, None, None].expand(-1, -1, output_size, output_size)


def test_an_operator_of_ones_own_enters_by_the_door_of_the_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(Family.preset("align"), RoIOp)
    assert isinstance(Centre(), RoIOp)
    folder = tmp_path / "configs" / "roi_op"
    folder.mkdir(parents=True)
    (folder / "centre.yaml").write_text("_target_: tests.models.test_protocols.Centre\nstride: 8\n")
    monkeypatch.chdir(tmp_path)
    small = ["num_classes=4", "model.sampler.num_samples=8", "model.rpn.post_nms_train=10"]
    config = configs.compose_config("train", ["roi_op=centre", "mask_roi_op=align", *small])
    model = assembly.build_model(config)
    assert model.box_head is not None
    assert model.mask_head is not None
    assert isinstance(model.box_head.pooler.operator, Centre)
    assert model.box_head.pooler.operator.stride == 8
    assert isinstance(model.mask_head.pooler.operator, Family)
    losses = model.losses(random_images(1, 64), random_targets(1, 64))
    assert all(math.isfinite(loss.total.item()) for loss in losses.values())
