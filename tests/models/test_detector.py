"""The detector whole: what must not depend on the batch, its variants, and the golden losses of ten steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrcnn import structures
from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config import files
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.structures import Images, Proposals, Targets
from maskrcnn.training.learner import build_optimizer
from maskrcnn.training.settings import Schedule
from tests.models.batches import NUM_CLASSES, box_targets, random_images, random_targets, with_keypoints

GOLDEN = Path(__file__).with_name("golden_losses.json")
TINY = [
    "model.pyramid.out_channels=16",
    "model.box_head.trunk.dim=32",
    "model.mask_head.trunk.dim=16",
    "model.mask_head.predictor.dim=16",
    "model.sampler.num_samples=16",
]
TINY_C4 = ["model.sampler.num_samples=16", "model.mask_head.predictor.dim=16"]


def build(*overrides: str, seed: int = 0) -> MaskRCNN:
    torch.manual_seed(seed)
    config = configs.compose_config("train", [f"num_classes={NUM_CLASSES}", *overrides])
    return assembly.build_model(config)


def test_detections_of_an_image_do_not_depend_on_its_batch_or_padding() -> None:
    model = build(*TINY, "model.box_head.score_threshold=0.0").eval()
    images = random_images(3, 128)
    images.sizes[1] = torch.tensor([96.0, 112.0])
    with torch.no_grad():
        together = model.detect(images)
        alone = model.detect(Images(images.pixels[1:2], images.sizes[1:2]))
    assert together.valid[1].sum() == alone.valid[0].sum() > 0
    torch.testing.assert_close(together.boxes[1], alone.boxes[0], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(together.scores[1], alone.scores[0], atol=1e-5, rtol=1e-4)
    assert together.boxes[1][..., 2].max() <= 112
    assert together.boxes[1][..., 3].max() <= 96


def test_what_lies_in_the_padding_is_not_seen() -> None:
    model = build(*TINY, "model.box_head.score_threshold=0.0").eval()
    images = random_images(1, 128)
    images.sizes[:] = 96.0
    garbage = Images(images.pixels.clone(), images.sizes)
    garbage.pixels[:, :, 96:] = 255
    garbage.pixels[:, :, :, 96:] = 255
    with torch.no_grad():
        assert torch.equal(model.detect(images).boxes, model.detect(garbage).boxes)


def test_the_sum_of_losses_is_that_of_its_images() -> None:
    """Sampling is keyed by the image and losses are sums, so a batch may be split at will (frozen or group norm)."""
    model = build(*TINY, "model.backbone.norm=gn").double()
    images, targets = random_images(2, 128), random_targets(2, 128)
    whole = model.losses(images, targets)
    parts = [
        model.losses(Images(images.pixels[n : n + 1], images.sizes[n : n + 1]), one_image(targets, n))
        for n in range(2)
    ]
    for name, loss in whole.items():
        assert loss.count == sum(part[name].count for part in parts)
        torch.testing.assert_close(loss.total, sum(part[name].total for part in parts), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("model", ["r18_fpn", pytest.param("r18_fpn_keypoints", marks=pytest.mark.slow)])
def test_slots_that_a_cpu_leaves_out_change_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three images with unlike numbers of objects and detections: what a GPU computes, all slots, is the same."""
    images = random_images(3, 64)
    images = replace(images, pixels=images.pixels.double())
    targets = with_keypoints(random_targets(3, 64), 5)
    small = ["model.pyramid.out_channels=16", "model.box_head.trunk.dim=32", "model.sampler.num_samples=32"]
    small += ["model.rpn.post_nms_train=20", "model.box_head.score_threshold=0.26", "model.backbone.norm=gn"]
    whole, regions = [], list[int]()
    for padded in (False, True):
        monkeypatch.setattr(structures, "_stays_padded", lambda slots, padded=padded: padded)
        detector = build(f"model={model}", *small, "num_keypoints=5").double()
        head = detector.keypoint_head or detector.mask_head
        assert head is not None
        assert head.trunk is not None
        head.trunk.register_forward_hook(lambda trunk, given, out: regions.append(len(out)))
        losses = detector.losses(images, targets)
        torch.stack([loss.total / loss.count for loss in losses.values()]).sum().backward()
        gradients = {n: p.grad for n, p in detector.named_parameters() if p.grad is not None}
        with torch.no_grad():
            found = detector.eval().detect(images, trim=True)
        at = found.valid
        seen = [None if maps is None else maps[at] for maps in (found.masks, found.keypoints)]
        whole.append(({name: loss.total for name, loss in losses.items()}, gradients, found.boxes[at], seen))
    assert len(set(at.sum(1).tolist())) > 1
    assert regions[0] < regions[2]
    assert regions[1] == at.sum() < regions[3] == at.numel()
    torch.testing.assert_close(*whole, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("model", ["r18_fpn", "r18_fpn_keypoints"])
def test_slots_left_out_leave_maps_channels_last(model: str) -> None:
    """What a trunk is given, and the gradient that a RoI operator gets back: else both take their slow paths."""
    detector = build(f"model={model}", "model.sampler.num_samples=32", "num_keypoints=5")
    head = detector.keypoint_head or detector.mask_head
    assert head is not None
    assert head.trunk is not None
    seen: list[bool] = []

    def note(maps: torch.Tensor) -> None:
        seen.append(maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous())

    def pooled(pooler: torch.nn.Module, given: object, out: torch.Tensor) -> None:
        out.register_hook(note)

    head.trunk.register_forward_pre_hook(lambda trunk, given: note(given[0]))
    head.pooler.register_forward_hook(pooled)
    losses = detector.losses(random_images(3, 64), with_keypoints(random_targets(3, 64), 5))
    torch.stack([loss.total for loss in losses.values()]).sum().backward()
    assert seen == [True, True]


def one_image(targets: Targets, n: int) -> Targets:
    masks = targets.masks
    assert masks is not None
    rows = {name: getattr(targets, name)[n : n + 1] for name in ("boxes", "labels", "valid", "crowd", "keys")}
    cut = type(masks)(masks.bits, masks.offset[n : n + 1], masks.size[n : n + 1], masks.to_bitmap[n : n + 1])
    return Targets(**rows, masks=cut)


def test_a_batch_without_any_object_trains() -> None:
    model = build(*TINY)
    losses = model.losses(random_images(2, 128), box_targets([[], []], [[], []]))
    assert losses["mask"].count == 0
    assert losses["box_regression"].total == 0
    total = sum(loss.total / loss.count.clamp(min=1) for loss in losses.values())
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_learns() -> None:
    model = build(*TINY)
    losses = model.losses(random_images(2, 128), random_targets(2, 128))
    sum(loss.total for loss in losses.values()).backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_faster_and_fast_rcnn() -> None:
    faster = build(*TINY[:2], "model.mask_head=null")
    losses = faster.losses(random_images(2, 128), random_targets(2, 128))
    assert sorted(losses) == ["box_class", "box_regression", "rpn_box", "rpn_objectness"]
    fast = build(*TINY[:2], "model.mask_head=null", "model.rpn=null", "model.box_head.score_threshold=0.0")
    given = Proposals(
        torch.tensor([[[10.0, 10, 60, 60]]] * 2), torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool)
    )
    assert sorted(fast.losses(random_images(2, 128), random_targets(2, 128), given)) == [
        "box_class",
        "box_regression",
    ]
    assert fast.eval().detect(random_images(2, 128), given).valid.sum(1).tolist() == [NUM_CLASSES] * 2
    with pytest.raises(ValueError, match="proposals must be given"):
        fast.detect(random_images(2, 128))


def test_c4_shares_res5_between_the_heads() -> None:
    model = build("model=r18_c4", *TINY_C4)
    assert model.mask_head is not None
    assert model.mask_head.trunk is None
    assert not any(name.startswith("mask_head.trunk") for name in model.state_dict())
    losses = model.losses(random_images(1, 128), random_targets(1, 128))
    losses["mask"].total.backward()
    gradient = model.box_head.trunk.res5[0].conv1.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


# Small ones and one of some further families; `test_every_option_composes_and_builds` builds all without arithmetic.
QUICK = ("r18_", "lite0_c4", "lite0_fpn", "rfcn_r18", "mobilenet_v2")
ALL_MODELS = [
    pytest.param(name, marks=[] if name.startswith(QUICK) else [pytest.mark.slow])
    for name in files.options("model")
]


@pytest.mark.parametrize("name", ALL_MODELS)
def test_every_model_trains_a_step_and_detects(name: str) -> None:
    if name in ("x101_fpn", "r101_fpn", "r101_c4") or name.startswith(("torchvision_", "detectron2_")):
        with torch.device("meta"):  # large: names and shapes only
            assert len(build(f"model={name}").state_dict()) > 100
        return
    small = ["model.rpn.post_nms_train=20", "model.rpn.post_nms_test=4"]
    if not name.endswith("_rpn"):
        small.append("model.sampler.num_samples=4")
    if "lite0" in name:
        pytest.importorskip("timm", reason="the extra maskrcnn[timm] is not installed")
    elif name not in ("vgg16", "convnext_tiny_fpn", "swin_t_fpn"):  # which have no batch norm
        small.append("model.backbone.norm=gn")
    model = build(f"model={name}", *small, "num_keypoints=5")
    losses = model.losses(random_images(1, 64), with_keypoints(random_targets(1, 64), 5))
    sum(loss.total for loss in losses.values()).backward()
    assert all(loss.total.isfinite() for loss in losses.values())
    with torch.no_grad():
        detections = model.eval().detect(random_images(1, 64))
    assert (detections.masks is None) == (model.mask_head is None)
    assert (detections.keypoints is not None) == ("keypoint" in losses) == name.endswith("_keypoints")
    if detections.masks is not None:
        assert detections.masks.shape[:2] == detections.scores.shape
    if detections.keypoints is not None:
        assert detections.keypoints.shape == (*detections.scores.shape, 5, 3)


def ten_steps(overrides: list[str]) -> list[float]:
    """Losses of ten SGD steps in float64 on random images of random boxes: any change of numerics shows."""
    few = ["model.sampler.num_samples=8", "model.rpn.post_nms_train=20", "model.backbone.norm=gn"]
    model = build(*overrides, *few).double().train()
    optimizer = build_optimizer(model, Schedule(optimizer="sgd"))
    losses = []
    for step in range(10):
        terms = model.losses(random_images(2, 64, seed=step), random_targets(2, 64, seed=step))
        total = torch.stack([loss.total / loss.count.clamp(min=1) for loss in terms.values()]).sum()
        for group in optimizer.param_groups:
            group["lr"] = 0.002
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("fpn", TINY), pytest.param("c4", ["model=r18_c4", *TINY_C4], marks=pytest.mark.slow)],
)
def test_golden_losses(name: str, overrides: list[str]) -> None:
    """Regenerate with `python -m tests.models.test_detector` in a commit that says why the numbers change."""
    golden = json.loads(GOLDEN.read_text())
    found = ten_steps(overrides)
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64),
        torch.tensor(golden[name], dtype=torch.float64),
        rtol=1e-8,
        atol=0,
        msg=lambda text: f"{text}\ngolden losses of torch {golden['torch']}, this is {torch.__version__}",
    )


if __name__ == "__main__":
    content = {
        "torch": torch.__version__,
        "fpn": ten_steps(TINY),
        "c4": ten_steps(["model=r18_c4", *TINY_C4]),
    }
    GOLDEN.write_text(json.dumps(content, indent=1))
