"""Detectron2's published names and shapes: all are taken, none is missing, and values land where they mean the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.resnet import ResNet
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.structures import Images
from maskrcnn.weights import from_detectron2, read_weights
from maskrcnn.weights.detectron2 import published_name
from tests.weights.detectron2_names import STRUCTURES, Shapes, buffers

BGR_MEAN = torch.tensor([103.53, 116.28, 123.675])


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) > 1:
            value /= max(value[0].numel(), 1) ** 0.5
        state[name] = value
    return state


def zoo(kind: str, depth: int = 50, classes: int = 3) -> dict[str, Tensor]:
    return random_state(STRUCTURES[kind](depth, classes))


@pytest.mark.parametrize("kind", ["c4", "dc5", "fpn"])
@pytest.mark.parametrize("depth", [50, 101])
def test_nothing_is_left_over_and_nothing_is_missing(kind: str, depth: int) -> None:
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in STRUCTURES[kind](depth, 80).items()}
        model = from_detectron2(state)
    assert published_name(state) == f"r{depth}_{kind}"
    assert sorted(tuple(v.shape) for v in model.state_dict().values()) == sorted(
        map(tuple, STRUCTURES[kind](depth, 80).values())
    )
    for name in (
        "backbone.stem.conv1.weight",
        "backbone.bottom_up.stem.conv1.weight",
        "roi_heads.mask_head.deconv.bias",
    ):
        if name in state:
            with pytest.raises(UserError, match="is missing"), torch.device("meta"):
                from_detectron2({k: v for k, v in state.items() if k != name})
    with pytest.raises(UserError, match=r"roi_heads\.extra is left over"), torch.device("meta"):
        from_detectron2({**state, "roi_heads.extra": torch.zeros(1)})


def test_every_value_is_somewhere() -> None:
    """Sums of all entries, which no turning around of channels or anchors changes."""
    for kind in ("c4", "fpn"):
        state = zoo(kind)
        found = from_detectron2(state).state_dict()
        expected = sorted(value.double().sum().item() for value in state.values())
        assert sorted(v.double().sum().item() for v in found.values()) == pytest.approx(expected, abs=1e-3)


def bottleneck(state: dict[str, Tensor], name: str, x: Tensor, stride: int, dilation: int = 1) -> Tensor:
    """Detectron2's block, by hand: the 1x1 convolution has the stride, every 3x3 one the dilation."""

    def normed(x: Tensor, conv: str, **how: int) -> Tensor:
        x = F.conv2d(x, state[f"{name}.{conv}.weight"], **how)
        weight, bias, mean, var = (
            state[f"{name}.{conv}.norm.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)

    y = F.relu(normed(x, "conv1", stride=stride))
    y = F.relu(normed(y, "conv2", padding=dilation, dilation=dilation))
    y = normed(y, "conv3")
    if f"{name}.shortcut.weight" in state:
        x = normed(x, "shortcut", stride=stride)
    return F.relu(x + y)


def bottom_up(
    state: dict[str, Tensor], prefix: str, rgb: Tensor, last: int, dilated: bool
) -> dict[int, Tensor]:
    """Detectron2's ResNet-50, by hand, on RGB pixels that are turned to BGR as its data loader does."""
    x = rgb.flip(1) - BGR_MEAN.view(1, 3, 1, 1)
    x = F.conv2d(x, state[f"{prefix}stem.conv1.weight"], stride=2, padding=3)
    weight, bias, mean, var = (
        state[f"{prefix}stem.conv1.norm.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    x = F.max_pool2d(F.relu(F.batch_norm(x, mean, var, weight, bias, eps=1e-5)), 3, 2, 1)
    maps = {}
    for number, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        if number <= last:
            dilation = 2 if number == 5 and dilated else 1
            for block in range(blocks):
                stride = 2 if block == 0 and number > 2 and dilation == 1 else 1
                x = bottleneck(state, f"{prefix}res{number}.{block}", x, stride, dilation)
            maps[number] = x
    return maps


def rpn_by_hand(
    state: dict[str, Tensor], x: Tensor, level: int, stride: int, sizes: list[int]
) -> dict[tuple[float, ...], list[float]]:
    """Objectness and deltas of the RPN by their anchor (rounded to 0.01 px), in Detectron2's own order of anchors."""
    head = "proposal_generator.rpn_head"
    x = F.relu(F.conv2d(x, state[f"{head}.conv.weight"], state[f"{head}.conv.bias"], padding=1))
    logits = F.conv2d(x, state[f"{head}.objectness_logits.weight"], state[f"{head}.objectness_logits.bias"])[
        0
    ]
    deltas = F.conv2d(x, state[f"{head}.anchor_deltas.weight"], state[f"{head}.anchor_deltas.bias"])[0]
    out = {}
    a = 0
    for size in sizes:
        for ratio in (0.5, 1.0, 2.0):
            width = (size * size / ratio) ** 0.5
            height = ratio * width
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    cx, cy = column * stride, row * stride
                    box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
                    values = [logits[a, row, column], *deltas[4 * a : 4 * a + 4, row, column]]
                    out[(level, *(round(v, 2) for v in box))] = [float(v) for v in values]
            a += 1
    return out


@torch.no_grad()
def forward_by_hand(
    kind: str, state: dict[str, Tensor], rgb: Tensor
) -> tuple[dict[int, Tensor], dict[tuple[float, ...], list[float]]]:
    """Feature maps by stride, and the RPN's outputs by anchor."""
    prefix = "backbone.bottom_up." if kind == "fpn" else "backbone."
    maps = bottom_up(state, prefix, rgb, 4 if kind == "c4" else 5, kind == "dc5")
    if kind != "fpn":
        features = {16: maps[max(maps)]}
        return features, rpn_by_hand(state, features[16], 0, 16, [32, 64, 128, 256, 512])
    features, above = {}, None
    for number in (5, 4, 3, 2):
        lateral = F.conv2d(
            maps[number],
            state[f"backbone.fpn_lateral{number}.weight"],
            state[f"backbone.fpn_lateral{number}.bias"],
        )
        above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2, mode="nearest")
        name = f"backbone.fpn_output{number}"
        features[2**number] = F.conv2d(above, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
    features[64] = features[32][:, :, ::2, ::2]
    outputs = {}
    for level, stride in enumerate(sorted(features)):
        outputs |= rpn_by_hand(state, features[stride], level, stride, [32 * 2**level])
    return features, outputs


def pixels(side: int = 64) -> Tensor:
    return torch.randint(
        0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(5), dtype=torch.uint8
    )


@pytest.mark.parametrize("kind", ["c4", pytest.param("dc5", marks=pytest.mark.slow), "fpn"])
def test_backbone_pyramid_and_rpn_equal_a_forward_by_hand(kind: str) -> None:
    state, rgb = zoo(kind), pixels()
    model = from_detectron2(state).eval()
    images = Images(rgb, torch.tensor([[64.0, 64.0]]))
    features, expected = forward_by_hand(kind, state, rgb.float())
    assert model.rpn is not None
    with torch.no_grad():
        found = model.features(images)
        outputs = model.rpn._predict(found)
    assert found.keys() == features.keys()
    for stride, feature in features.items():
        torch.testing.assert_close(found[stride], feature, atol=1e-3, rtol=1e-3)
    seen = 0
    levels = zip(
        outputs.logits[0].split(outputs.sizes),
        outputs.deltas[0].split(outputs.sizes),
        outputs.anchors.split(outputs.sizes),
        strict=True,
    )
    for level, rows in enumerate(levels):
        for logit, delta, anchor in zip(*rows, strict=True):
            key = (level, *(round(v, 2) for v in anchor.tolist()))
            assert expected[key] == pytest.approx([logit.item(), *delta.tolist()], rel=1e-3, abs=1e-3)
            seen += 1
    assert seen == len(expected)


def roi_heads_by_hand(kind: str, state: dict[str, Tensor], pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits and deltas of pooled regions."""
    if kind == "c4":
        for block in range(3):
            pooled = bottleneck(state, f"roi_heads.res5.{block}", pooled, 2 if block == 0 else 1)
        x = pooled.mean((2, 3))
    else:
        x = pooled.flatten(1)
        for name in ("fc1", "fc2"):
            x = F.relu(
                F.linear(
                    x, state[f"roi_heads.box_head.{name}.weight"], state[f"roi_heads.box_head.{name}.bias"]
                )
            )
    predictor = "roi_heads.box_predictor"
    return (
        F.linear(x, state[f"{predictor}.cls_score.weight"], state[f"{predictor}.cls_score.bias"]),
        F.linear(x, state[f"{predictor}.bbox_pred.weight"], state[f"{predictor}.bbox_pred.bias"]),
    )


def masks_by_hand(kind: str, state: dict[str, Tensor], pooled: Tensor) -> Tensor:
    head = "roi_heads.mask_head"
    if kind == "c4":
        for block in range(3):
            pooled = bottleneck(state, f"roi_heads.res5.{block}", pooled, 2 if block == 0 else 1)
    else:
        for number in range(1, 5):
            weight, bias = state[f"{head}.mask_fcn{number}.weight"], state[f"{head}.mask_fcn{number}.bias"]
            pooled = F.relu(F.conv2d(pooled, weight, bias, padding=1))
    x = F.relu(
        F.conv_transpose2d(pooled, state[f"{head}.deconv.weight"], state[f"{head}.deconv.bias"], stride=2)
    )
    return F.conv2d(x, state[f"{head}.predictor.weight"], state[f"{head}.predictor.bias"])


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_heads_equal_a_forward_by_hand(kind: str) -> None:
    state = zoo(kind)
    model = from_detectron2(state).eval()
    box_head, mask_head = model.box_head, model.mask_head
    assert box_head is not None
    assert mask_head is not None
    channels = model.pyramid.out_channels
    generator = torch.Generator().manual_seed(1)
    for_boxes = torch.rand(
        2, channels, box_head.pooler.output_size, box_head.pooler.output_size, generator=generator
    )  # type: ignore[call-overload]
    for_masks = torch.rand(2, channels, 14, 14, generator=generator)  # type: ignore[call-overload]
    with torch.no_grad():
        logits, deltas = roi_heads_by_hand(kind, state, for_boxes)
        x = box_head.trunk(for_boxes)
        x = x.mean((2, 3)) if x.dim() == 4 else x
        torch.testing.assert_close(box_head.logits(x), logits, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(box_head.deltas(x), deltas, atol=1e-4, rtol=1e-3)
        trunk = mask_head.trunk or box_head.trunk
        masks = mask_head.predictor(trunk(for_masks))
        torch.testing.assert_close(masks, masks_by_hand(kind, state, for_masks), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_file_of_the_zoo_with_its_buffers(tmp_path: Path) -> None:
    """Written as the zoo's older files are: NumPy arrays, pixel statistics and anchors among them."""
    state = random_state(STRUCTURES["fpn"](50, 3) | buffers("fpn"))
    state["pixel_mean"], state["pixel_std"] = (
        BGR_MEAN.view(3, 1, 1) + 1,
        torch.tensor([2.0, 3, 4]).view(3, 1, 1),
    )
    for level in range(5):
        state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = cell_anchors(32 * 2**level)
    content = {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, protocol=2))
    model = from_detectron2(read_weights(tmp_path / "model_final.pkl"))
    assert model.pixel_mean.flatten().tolist() == pytest.approx([124.675, 117.28, 104.53])
    assert model.pixel_std.flatten().tolist() == [4, 3, 2]
    stem = model.state_dict()["backbone.stem.0.weight"]
    assert torch.equal(stem, state["backbone.bottom_up.stem.conv1.weight"].flip(1))
    state["proposal_generator.anchor_generator.cell_anchors.2"] *= 1.5
    with pytest.raises(UserError, match="anchors"):
        from_detectron2(state)


def cell_anchors(size: float) -> Tensor:
    rows = []
    for ratio in (0.5, 1.0, 2.0):
        width = (size * size / ratio) ** 0.5
        rows.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    return torch.tensor(rows)


def test_settings_are_the_zoos() -> None:
    state = zoo("c4")
    model = from_detectron2(state, model="r50_c4")
    rpn, box_head = model.rpn, model.box_head
    assert rpn is not None
    assert box_head is not None
    assert (rpn.pre_nms[False], rpn.post_nms[False], rpn.beta) == (6000, 1000, 0.0)
    assert (box_head.score_threshold, box_head.num_classes, box_head.beta) == (0.05, 3, 0.0)
    assert box_head.pooler.output_size == 14
    assert sum(type(m).__name__ == "FrozenBatchNorm2d" for m in model.modules()) == 53
    with pytest.raises(UserError, match="none of Detectron2's"):
        from_detectron2(state, model="r18_c4")  # type: ignore[arg-type]


def test_another_kind_is_refused_in_words() -> None:
    state = zoo("c4")
    with pytest.raises(UserError, match="do not fit"):
        from_detectron2(state, model="r50_fpn")
    without = {name: value for name, value in state.items() if ".res4.5." not in name}
    with pytest.raises(UserError, match="5 blocks in res4"):
        from_detectron2(without)


def test_a_given_model_with_another_deviation_sees_the_same() -> None:
    """Weights for pixels that are not divided, in a model that divides them: the first convolution makes up for it."""
    state = zoo("c4")
    built = from_detectron2(state).eval()
    given = MaskRCNN(
        ResNet("resnet50", "frozen_bn", last_stage=4, stride_in_1x1=True),
        built.pyramid,
        built.rpn,
        built.box_head,
        built.mask_head,
        built.sampler,
    ).eval()
    assert from_detectron2(state, model=given) is given
    images = Images(pixels(), torch.tensor([[64.0, 60.0]]))
    with torch.no_grad():
        torch.testing.assert_close(
            given.features(images)[16], built.features(images)[16], atol=1e-3, rtol=1e-3
        )
