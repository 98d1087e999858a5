"""Proposals and losses of the RPN against loops written from the paper, with torchvision's suppression."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from maskrcnn.models import boxes as box_ops
from maskrcnn.models.anchors import Anchors
from maskrcnn.models.rpn import RPN, SAMPLING_STREAM
from maskrcnn.models.sampling import match, sample
from tests.models.batches import random_targets

SIZES = torch.tensor([[96.0, 128.0], [80.0, 100.0]])


def features() -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {s: torch.randn(2, 8, 96 // s, 128 // s, generator=generator) for s in (8, 16)}


def make_rpn(num_convs: int = 1) -> RPN:
    torch.manual_seed(3)
    anchors = Anchors([[16], [32]])
    rpn = RPN(
        8,
        anchors,
        num_convs,
        pre_nms_train=60,
        post_nms_train=40,
        pre_nms_test=30,
        post_nms_test=20,
        num_samples=32,
    )
    for layer in (rpn.head.logits, rpn.head.deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return rpn


def loop_proposals(rpn: RPN, image: int, pre_nms: int, post_nms: int) -> tuple[Tensor, Tensor]:
    """One image, level by level, in the words of the released code."""
    kept_boxes, kept_scores = [], []
    for (_, feature), anchors in zip(sorted(features().items()), rpn.anchors(features()), strict=True):
        hidden = F.relu(rpn.head.convs[0](feature[image : image + 1]))
        logits = rpn.head.logits(hidden)[0].permute(1, 2, 0).flatten()
        deltas = rpn.head.deltas(hidden)[0].permute(1, 2, 0).reshape(-1, 4)
        order = logits.argsort(descending=True)[:pre_nms]
        boxes = box_ops.decode(deltas[order], anchors[order])
        height, width = SIZES[image].tolist()
        boxes = torchvision.ops.clip_boxes_to_image(boxes, (int(height), int(width)))
        keep = torchvision.ops.remove_small_boxes(boxes, 1e-3)
        boxes, scores = boxes[keep], logits[order][keep]
        keep = torchvision.ops.nms(boxes, scores, 0.7)
        kept_boxes.append(boxes[keep])
        kept_scores.append(scores[keep])
    scores = torch.cat(kept_scores)
    best = scores.argsort(descending=True)[:post_nms]
    return torch.cat(kept_boxes)[best], scores[best]


@pytest.mark.parametrize("training", [True, False])
def test_proposals_equal_the_loop(training: bool) -> None:
    rpn = make_rpn().train(training)
    proposals = rpn.propose(features(), SIZES)
    for image in range(2):
        boxes, scores = loop_proposals(rpn, image, *((60, 40) if training else (30, 20)))
        valid = proposals.valid[image]
        assert valid.sum() == len(boxes) > 10
        torch.testing.assert_close(proposals.boxes[image][valid], boxes)
        torch.testing.assert_close(proposals.scores[image][valid], scores)


def test_losses_equal_the_loop_over_the_same_anchors() -> None:
    rpn = make_rpn()
    targets = random_targets(2, 96, seed=1)
    _, losses = rpn.propose_and_learn(features(), SIZES, targets)
    outputs = torch.cat(rpn.head([features()[stride] for stride in (8, 16)]), 1)
    logits, deltas = outputs[..., 0], outputs[..., 1:]
    anchors = torch.cat(rpn.anchors(features()))
    found = match(anchors[None], targets)
    positive = (found.iou >= 0.7) | found.best_of_object
    index, valid, chosen = sample(
        positive, (found.iou < 0.3) & ~positive, 32, 16, targets.keys, SAMPLING_STREAM
    )
    objectness = regression = 0.0
    for n in range(2):
        for slot in range(32):
            if not valid[n, slot]:
                continue
            a = int(index[n, slot])
            p = torch.sigmoid(logits[n, a]).item()
            objectness -= torch.log(torch.tensor(p if chosen[n, slot] else 1 - p)).item()
            if chosen[n, slot]:
                goal = box_ops.encode(targets.boxes[n, found.object[n, a]], anchors[a])
                for d in (deltas[n, a] - goal).abs().tolist():
                    regression += d - 1 / 18 if d > 1 / 9 else 4.5 * d * d
    assert losses["rpn_objectness"].count == valid.sum() == 64
    assert losses["rpn_objectness"].total.item() == pytest.approx(objectness, rel=1e-4)
    assert losses["rpn_box"].total.item() == pytest.approx(regression, rel=1e-4)
    assert regression > 0


@pytest.mark.parametrize("num_convs", [1, 2])
def test_gradients_equal_those_through_the_outputs_of_all_anchors(num_convs: int) -> None:
    rpn = make_rpn(num_convs).double()
    targets = random_targets(2, 96, seed=1)
    maps = {stride: x.double().requires_grad_() for stride, x in features().items()}
    inputs = [*maps.values(), *rpn.parameters()]
    _, losses = rpn.propose_and_learn(maps, SIZES, targets)
    found = torch.autograd.grad(losses["rpn_objectness"].total + 3 * losses["rpn_box"].total, inputs)

    outputs = torch.cat(rpn.head([maps[8], maps[16]]), 1)
    anchors = torch.cat(rpn.anchors(maps))
    matched = match(anchors[None], targets)
    positive = (matched.iou >= 0.7) | matched.best_of_object
    index, valid, chosen = sample(
        positive, (matched.iou < 0.3) & ~positive, 32, 16, targets.keys, SAMPLING_STREAM
    )
    assert valid.all()
    at_samples = outputs[torch.arange(2)[:, None], index]
    goals = [
        box_ops.encode(targets.boxes[n, matched.object[n, index[n]]], anchors[index[n]]) for n in range(2)
    ]
    loss = F.binary_cross_entropy_with_logits(at_samples[..., 0], chosen.double(), reduction="sum")
    loss = loss + 3 * F.smooth_l1_loss(
        at_samples[chosen][:, 1:], torch.stack(goals)[chosen].double(), beta=1 / 9, reduction="sum"
    )
    for got, expected in zip(found, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
        assert expected.abs().max() > 1e-3


def test_gradients_under_autocast_are_those_of_float32() -> None:
    """Weights that autocast has converted without gradients must not be used again for the losses."""
    targets, found = random_targets(2, 96, seed=1), []
    for enabled in (True, False):
        rpn = make_rpn(num_convs=2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            _, losses = rpn.propose_and_learn(features(), SIZES, targets)
        total = losses["rpn_objectness"].total + losses["rpn_box"].total
        found.append(torch.autograd.grad(total, list(rpn.parameters())))
    for half, full in zip(*found, strict=True):
        assert (half - full).norm() < 0.05 * full.norm()


def test_a_level_smaller_than_the_quota_and_an_image_without_objects() -> None:
    rpn = make_rpn()
    empty = random_targets(2, 96, seed=1)
    empty.valid[:] = False
    proposals, losses = rpn.propose_and_learn(features(), SIZES, empty)
    assert losses["rpn_box"].total == 0
    assert losses["rpn_objectness"].total > 0
    assert proposals.boxes.isfinite().all()


def test_a_score_threshold_drops_proposals_and_no_others() -> None:
    rpn = make_rpn().eval()
    with torch.no_grad():
        every = rpn.propose(features(), SIZES)
        rpn.score_threshold = every.scores[0].sigmoid().median().item()
        found = rpn.propose(features(), SIZES)
    kept = every.valid & (every.scores.sigmoid() >= rpn.score_threshold)
    assert 0 < kept.sum() < every.valid.sum()
    for n in range(2):
        assert torch.equal(found.boxes[n][found.valid[n]], every.boxes[n][kept[n]])


def test_deltas_are_scaled_by_the_weights_and_cut_at_the_largest_size() -> None:
    """Weights of 2 and outputs twice as large are the same proposals; the cut is at the largest logarithm."""
    rpn = make_rpn().eval()
    with torch.no_grad():
        before = rpn.propose(features(), SIZES)
        rpn.box_weights = (2.0, 2.0, 2.0, 2.0)
        rpn.head.deltas.weight *= 2
        rpn.head.deltas.bias *= 2
        torch.testing.assert_close(rpn.propose(features(), SIZES).boxes, before.boxes)
        rpn.max_log_scale = 0.0
        sides = rpn.propose(features(), SIZES)
    size = (sides.boxes[..., 2:] - sides.boxes[..., :2])[sides.valid]
    assert size.max() <= 32 * 2**0.5 + 1e-3  # no proposal is larger than its anchor
    assert (before.boxes[..., 2:] - before.boxes[..., :2]).max() > 46
