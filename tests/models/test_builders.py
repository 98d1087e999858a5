"""Models built in Python are those of the configs: the same parameters and the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from maskrcnn_ops import RoIOp

from maskrcnn.config import compose as configs
from maskrcnn.config.build import build_model
from maskrcnn.config.trained import BUILDERS
from maskrcnn.errors import UserError
from maskrcnn.models import MaskRCNN, faster_rcnn, mask_rcnn
from tests.models.batches import random_images, random_targets

FPN_CHANNELS = "model.pyramid.in_channels=[64,128,256,512]"
SAME: list[tuple[Callable[[], MaskRCNN], list[str]]] = [
    (lambda: mask_rcnn("resnet50", 3), ["model=r50_fpn"]),
    (lambda: mask_rcnn("resnet50", 3, pyramid="c4"), ["model=r50_c4"]),
    (lambda: mask_rcnn("resnet50", 3, pyramid="c5", roi_op="pool"), ["model=r50_c5", "roi_op=pool"]),
    (lambda: mask_rcnn("resnet101", 3), ["model=r101_fpn"]),
    (lambda: mask_rcnn("resnet18", 3, small=True), ["model=r18_fpn"]),
    (
        lambda: mask_rcnn("resnet18", 3, pyramid="c4", small=True, roi_op="warp"),
        ["model=r18_c4", "roi_op=warp"],
    ),
    (lambda: mask_rcnn("resnet18", 3, pyramid="c5", small=True), ["model=r18_c5"]),
    (lambda: faster_rcnn("resnet18", 3, small=True), ["model=r18_fpn", "model.mask_head=null"]),
    (lambda: mask_rcnn("mobilenet_v3_large", 3), ["model=mobilenet_v3_fpn"]),
    (
        lambda: mask_rcnn("resnet18", 3, norm="frozen_bn", frozen_stages=2, score_threshold=0.2),
        [
            "model=r50_fpn",
            "model.backbone.arch=resnet18",
            FPN_CHANNELS,
            "model.backbone.norm=frozen_bn",
            "model.backbone.frozen_stages=2",
            "model.box_head.score_threshold=0.2",
        ],
    ),
]


def _case(make: Callable[[], MaskRCNN], overrides: list[str]) -> Any:
    """Heads of ResNet-50 and 101 for every region, and deep networks, take seconds."""
    slow = overrides[0] not in ("model=r18_fpn", "model=r18_c5")
    return pytest.param(make, overrides, id=" ".join(overrides[:2]), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("make", "overrides"), [_case(*pair) for pair in SAME])
def test_a_builder_makes_the_model_of_the_config(make: Callable[[], MaskRCNN], overrides: list[str]) -> None:
    built = make()
    described = build_model(configs.compose_config("train", [*overrides, "num_classes=3"]))
    state = described.state_dict()
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in state.items()}
    learning = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (built, described)]
    assert learning[0] == learning[1]
    built.load_state_dict(state)
    built.to(memory_format=torch.channels_last)
    images, targets = random_images(1, 96), random_targets(1, 96)
    targets = type(targets)(**{**vars(targets), "labels": targets.labels % 3})
    outputs: list[Any] = []
    for model in (built, described):
        losses = {
            name: loss.total / loss.count for name, loss in model.train().losses(images, targets).items()
        }
        with torch.no_grad():
            outputs.append((losses, model.eval().detect(images)))
    (losses, found), (expected_losses, expected) = outputs
    assert losses.keys() == expected_losses.keys()
    assert [n for n in losses if not torch.equal(losses[n], expected_losses[n])] == []
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert (found.masks is None) == (expected.masks is None)
    assert found.masks is None or torch.equal(found.masks, expected.masks)


def test_a_recipe_spells_out_what_depends_on_weights() -> None:
    recipe = mask_rcnn("resnet18", 2, RoIOp.preset("pool"), small=True).recipe
    assert recipe is not None
    assert BUILDERS[recipe["_target_"]] is mask_rcnn
    assert (recipe["norm"], recipe["frozen_stages"], recipe["weights"]) == ("bn", 0, None)
    operator = {key: value for key, value in recipe["roi_op"].items() if key != "_target_"}
    assert RoIOp(**operator) == RoIOp.preset("pool")


def test_a_backbone_of_ones_own_is_asked_for_its_channels() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = torch.nn.ModuleList(
                torch.nn.Conv2d(3, 8 * stride, 1, stride=stride) for stride in (4, 8, 16, 32)
            )

        def forward(self, pixels: torch.Tensor) -> dict[int, torch.Tensor]:
            return {conv.stride[0]: conv(pixels) for conv in self.convs}  # type: ignore[misc,index,operator]

    model = mask_rcnn(Plain(), 2)
    assert [conv.in_channels for conv in model.pyramid.lateral] == [32, 64, 128, 256]  # type: ignore[union-attr]
    assert model.recipe is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"backbone": "resnet51"}, "backbone='resnet51' is unknown; did you mean resnet50?"),
        ({"roi_op": "aling"}, "roi_op='aling' is unknown; did you mean align?"),
        ({"pyramid": "c3"}, "pyramid='c3' is none of fpn, c4, c5"),
        ({"backbone": "mobilenet_v2", "pyramid": "c4"}, "res5 of a residual network"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: no such file"),
    ],
)
def test_what_does_not_exist_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        mask_rcnn(**given)
    assert words in str(caught.value)
