"""torchvision's detectors against themselves in our model: detections and losses on real images, and there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn, transform

from maskrcnn.data.canvas import Canvas, batch_images
from maskrcnn.data.dataset import Example
from maskrcnn.data.loader import batch_targets
from maskrcnn.data.transforms import Sample, Transform
from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.structures import Detections, Images, Preprocessing, Proposals
from maskrcnn.weights import from_torchvision, to_torchvision
from tests.data.conftest import real_data
from tests.weights.published import FAMILIES, as_persons, as_target, as_tensor, lively, some_examples

__all__ = ["real_data"]


def samples_of(model: MaskRCNN, examples: Sequence[Example]) -> tuple[list[Sample], Images]:
    assert model.preprocessing is not None
    resize = Transform.of(model.preprocessing)
    samples = [resize(example, np.random.default_rng(0)) for example in examples]
    canvas = Canvas(model.preprocessing.size_divisor)
    return samples, batch_images([sample.picture for sample in samples], canvas)


def in_rows(model: MaskRCNN) -> MaskRCNN:
    """The model with torchvision's memory layout: convolutions of another one round otherwise."""
    normalised = model._normalise
    model._normalise = lambda images: normalised(images).contiguous()  # type: ignore[method-assign]
    return model


def as_proposals(boxes: list[Tensor]) -> Proposals:
    """Boxes ``[K, 4]`` of each image."""
    padded = pad_sequence(boxes, batch_first=True)
    valid = torch.arange(padded.shape[1]) < torch.tensor([[len(b)] for b in boxes])
    return Proposals(padded, torch.zeros(valid.shape), valid)


def found_in(detections: Detections, row: int, sample: Sample) -> dict[str, Tensor]:
    """One image's detections in its own pixels, in torchvision's terms."""
    kept = detections.valid[row]
    height, width = sample.picture.size
    scale = torch.tensor(sample.original_size[::-1]) / torch.tensor([width, height])
    found = {
        "boxes": detections.boxes[row][kept] * scale.repeat(2),
        "scores": detections.scores[row][kept],
        "labels": detections.labels[row][kept] + 1,
    }
    if detections.masks is not None:
        found["masks"] = detections.masks[row][kept][:, None]
    if detections.keypoints is not None:
        found["keypoints"] = detections.keypoints[row][kept][..., :2] * scale
    return found


def differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    """The largest differences when each detection of ``a`` is compared with the nearest of ``b`` of its label."""
    distance = (a["boxes"][:, None] - b["boxes"][None]).abs().amax(-1)
    distance[a["labels"][:, None] != b["labels"][None]] = torch.inf
    nearest = distance.argmin(1)
    out = {"boxes": distance.amin(1).max().item()}
    for key in a.keys() & {"scores", "masks"}:
        out[key] = (a[key] - b[key][nearest]).abs().max().item()
    if "keypoints" in a:
        moved = (a["keypoints"][..., :2] - b["keypoints"][nearest][..., :2]).abs().amax(-1)
        out["moved keypoints"] = (moved > 0.05).double().mean().item()
    return out


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_detections_on_real_images(
    family: str, real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = some_examples(real_data("coco_subset"), 5)
    monkeypatch.setattr(transform, "paste_masks_in_image", lambda masks, boxes, size: masks)
    torch.manual_seed(0)
    module = lively(FAMILIES[family](box_score_thresh=0.02), [as_tensor(example) for example in examples])
    model = in_rows(from_torchvision(module))
    proposed: list[Tensor] = []
    module.rpn.register_forward_hook(lambda rpn, inputs, output: proposed.extend(output[0]))
    # Frozen norms are folded into the convolutions, which rounds otherwise; where an overlap is the threshold but for
    # rounding, another proposal survives.
    given_proposals = family == "mask_frozen"
    for batch in (examples[:2], examples[2:4], examples[4:]):
        proposed.clear()
        with torch.no_grad():
            expected = module([as_tensor(example) for example in batch])
            samples, images = samples_of(model, batch)
            given, _ = module.transform([as_tensor(example) for example in batch])
            assert torch.equal(model._normalise(images), given.tensors)
            proposals = as_proposals(proposed) if given_proposals else None
            detections = model.detect(images, proposals, trim=True)
        for row, sample in enumerate(samples):
            found = found_in(detections, row, sample)
            assert len(found["scores"]) == len(expected[row]["scores"]) > 20
            assert found.keys() == expected[row].keys() - {"keypoints_scores"}
            for differing in (differences(expected[row], found), differences(found, expected[row])):
                print(family, sample.image_id, len(found["scores"]), differing)
                assert differing["boxes"] < 0.05  # pixels
                assert differing["scores"] < 1e-3
                assert differing.get("masks", 0) < 5e-3
                # Of several peaks as high, another is the highest: these maps are noise.
                assert differing.get("moved keypoints", 0) < 0.01


LOSSES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "box_class",
    "loss_box_reg": "box_regression",
    "loss_mask": "mask",
    "loss_keypoint": "keypoint",
}
ALL_SAMPLED: dict[str, Any] = {
    "min_size": 800,  # the keypoint family draws one of six for training
    "rpn_batch_size_per_image": 10**6,
    "rpn_post_nms_top_n_train": 100,
    "box_batch_size_per_image": 128,
    "box_positive_fraction": 1.0,
}


@pytest.mark.long
@pytest.mark.parametrize("family", ["mask_frozen", "mask_v2", "faster_v1", "keypoint"])
def test_losses_on_real_images(family: str, real_data: Callable[[str], Path]) -> None:
    """So many are sampled that all are, in both: nothing is left to chance.

    The heads learn from torchvision's proposals, which are sorted by probability: here hundreds of them are exactly 1.
    """
    examples = some_examples(real_data("coco_subset"), 5)
    if family == "keypoint":
        examples = [as_persons(example) for example in examples]
    torch.manual_seed(0)
    module = lively(FAMILIES[family](**ALL_SAMPLED), [as_tensor(example) for example in examples]).train()
    proposed: list[Tensor] = []
    module.rpn.register_forward_hook(lambda rpn, inputs, output: proposed.extend(output[0]))
    model = in_rows(from_torchvision(module))
    assert model.rpn is not None
    for batch in (examples[:2], examples[2:4], examples[4:]):
        proposed.clear()
        with torch.no_grad():
            expected = module(
                [as_tensor(example) for example in batch],
                [as_target(example, family == "keypoint") for example in batch],
            )
            samples, images = samples_of(model, batch)
            targets = batch_targets(samples, range(len(batch)), with_masks=True)
            _, found = model.rpn.propose_and_learn(model.features(images), images.sizes, targets)
            found |= model.losses(images, targets, as_proposals(proposed))
        assert {LOSSES[name] for name in expected} == found.keys()
        for name, loss in expected.items():
            ours = found[LOSSES[name]]
            print(family, name, loss.item(), (ours.total / ours.count).item())
            assert (ours.total / ours.count).item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f == "mask_v2" else pytest.mark.slow) for f in FAMILIES]
)
def test_there_and_back_are_the_same_bytes(family: str) -> None:
    module = with_random_values(FAMILIES[family](num_classes=5))
    before = module.state_dict()
    after = to_torchvision(from_torchvision(module))
    assert list(after) == list(before)
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value), name


def with_random_values(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator))
        else:
            value.fill_(7)
    return module


def test_settings_come_along() -> None:
    settings = {
        "min_size": 320,
        "max_size": 500,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        "rpn_pre_nms_top_n_train": 11,
        "rpn_pre_nms_top_n_test": 12,
        "rpn_post_nms_top_n_train": 13,
        "rpn_post_nms_top_n_test": 14,
        "rpn_nms_thresh": 0.61,
        "rpn_fg_iou_thresh": 0.62,
        "rpn_bg_iou_thresh": 0.23,
        "rpn_batch_size_per_image": 24,
        "rpn_positive_fraction": 0.25,
        "rpn_score_thresh": 0.01,
        "box_score_thresh": 0.02,
        "box_nms_thresh": 0.63,
        "box_detections_per_img": 15,
        "box_fg_iou_thresh": 0.55,
        "box_bg_iou_thresh": 0.45,
        "box_batch_size_per_image": 40,
        "box_positive_fraction": 0.5,
        "bbox_reg_weights": (1.0, 2.0, 3.0, 4.0),
    }
    module = FAMILIES["mask_frozen"](num_classes=4, **settings)
    model = from_torchvision(module)
    rpn, box_head, mask_head = model.rpn, model.box_head, model.mask_head
    assert rpn is not None
    assert box_head is not None
    assert mask_head is not None
    assert model.preprocessing == Preprocessing(
        320, 500, "float", 32, pytest.approx((25.5, 51, 76.5)), pytest.approx((127.5, 153, 178.5))
    )
    assert model.pixel_mean.flatten().tolist() == pytest.approx([25.5, 51, 76.5])
    assert model.pixel_std.flatten().tolist() == pytest.approx([127.5, 153, 178.5])
    assert (rpn.pre_nms, rpn.post_nms) == ({True: 11, False: 12}, {True: 13, False: 14})
    assert (rpn.nms_iou, rpn.positive_iou, rpn.negative_iou) == (0.61, 0.62, 0.23)
    assert (rpn.num_samples, rpn.max_positives, rpn.score_threshold) == (24, 6, 0.01)
    assert (box_head.score_threshold, box_head.nms_iou, box_head.num_detections) == (0.02, 0.63, 15)
    assert box_head.box_weights == (1, 2, 3, 4)
    sampler = model.sampler
    assert sampler is not None
    assert (sampler.iou, sampler.negative_iou, sampler.num_samples, sampler.max_positives) == (
        0.55,
        0.45,
        40,
        20,
    )
    assert mask_head.mask_targets == "bitmap_align"
    norms = [m for m in model.modules() if type(m).__name__ == "FrozenBatchNorm2d"]
    assert {norm.eps for norm in norms} == {0.0}
    assert (box_head.num_classes, mask_head.num_classes) == (3, 3)
    assert len(norms) == 53
    assert not any(p.requires_grad for p in model.backbone.stages["res2"].parameters())  # type: ignore[index, union-attr]
    assert all(p.requires_grad for p in model.backbone.stages["res3"].parameters())  # type: ignore[index, union-attr]


def test_what_is_none_of_ours_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="not Linear"):
        from_torchvision(nn.Linear(1, 1))
    with torch.device("meta"):
        mobile = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
    with pytest.raises(UserError, match="backbone"):
        from_torchvision(mobile)
