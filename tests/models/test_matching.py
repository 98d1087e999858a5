"""Matching against torchvision's matcher and sampling of head regions, crowds and padding included."""

import torch
import torchvision
from torchvision.models.detection._utils import Matcher

from maskrcnn.models.detector import Sampler
from maskrcnn.models.sampling import match, take
from maskrcnn.structures import Proposals, Targets
from tests.models.batches import NUM_CLASSES, box_targets, random_targets
from tests.models.test_boxes import random_boxes


def test_take_is_fancy_indexing() -> None:
    values, index = torch.rand(3, 7, 2, 5), torch.tensor([[0, 6], [3, 3], [2, 1]])
    expected = torch.stack([values[n, index[n]] for n in range(3)])
    assert torch.equal(take(values, index), expected)


def test_rpn_rule_equals_torchvisions_matcher() -> None:
    targets = random_targets(4, 100, seed=3)
    anchors = random_boxes(400, 5)
    found = match(anchors[None], targets)
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    for n in range(4):
        objects = targets.boxes[n][targets.valid[n]]
        theirs = matcher(torchvision.ops.box_iou(objects, anchors))
        positive = (found.iou[n] >= 0.7) | found.best_of_object[n]
        negative = (found.iou[n] < 0.3) & ~positive
        assert torch.equal(positive, theirs >= 0)
        assert torch.equal(negative, theirs == Matcher.BELOW_LOW_THRESHOLD)
        assert torch.equal(found.object[n][positive], theirs[theirs >= 0])
        assert positive.any()


def test_an_image_without_objects_matches_nothing() -> None:
    found = match(random_boxes(20, 0)[None], box_targets([[]], [[]]))
    assert (found.iou == -1).all()
    assert not found.best_of_object.any()


def crowded() -> Targets:
    targets = box_targets([[[0, 0, 50, 50], [60, 60, 100, 100]]], [[0, 1]])
    crowd = torch.zeros_like(targets.valid)
    crowd[0, 0] = True
    return Targets(targets.boxes, targets.labels, targets.valid & ~crowd, crowd, targets.masks, targets.keys)


def test_regions_in_a_crowd_are_neither_positive_nor_negative() -> None:
    boxes = torch.tensor([[[5.0, 5, 30, 30], [60, 60, 100, 100], [30, 30, 90, 90]]])
    assert match(boxes, crowded()).in_crowd.tolist() == [[True, False, False]]
    partly = torch.tensor([[[20.0, 0, 62, 10], [20.0, 0, 64, 10]]])  # 30/42 and 30/44 of them inside
    assert match(partly, crowded()).in_crowd.tolist() == [[True, False]]
    proposals = Proposals(boxes, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
    samples = Sampler(16, 0.5)(proposals, crowded(), NUM_CLASSES)
    drawn = samples.boxes[0][samples.valid[0]].tolist()
    assert [5.0, 5.0, 30.0, 30.0] not in drawn
    assert [0.0, 0.0, 50.0, 50.0] not in drawn  # the crowd's own box does not join the proposals
    assert [30.0, 30.0, 90.0, 90.0] in drawn


def test_samples_carry_their_objects_class() -> None:
    targets = box_targets([[[0, 0, 40, 40], [50, 50, 90, 90]], []], [[2, 1], []])
    boxes = torch.tensor([[1.0, 1, 40, 40], [50, 52, 90, 90], [10, 60, 30, 95]]).expand(2, 3, 4)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    samples = Sampler(16, 0.5)(Proposals(boxes, torch.zeros(2, 3), valid), targets, NUM_CLASSES)
    found = {
        tuple(b): label
        for b, label, v in zip(
            samples.boxes[0].tolist(), samples.labels[0].tolist(), samples.valid[0].tolist(), strict=True
        )
        if v
    }
    assert found == {
        (0, 0, 40, 40): 2,
        (50, 50, 90, 90): 1,
        (1, 1, 40, 40): 2,
        (50, 52, 90, 90): 1,
        (10, 60, 30, 95): NUM_CLASSES,
    }
    assert samples.positive.sum(1).tolist() == [4, 0]
    assert samples.valid.sum(1).tolist() == [5, 2]
    assert (samples.labels[1][samples.valid[1]] == NUM_CLASSES).all()


def test_between_the_thresholds_nothing_is_sampled() -> None:
    targets = box_targets([[[0, 0, 40, 40]]], [[2]])
    boxes = torch.tensor([[[0.0, 0, 40, 30], [0, 0, 40, 18], [0, 0, 40, 10]]])  # overlap by 0.75, 0.45, 0.25
    proposals = Proposals(boxes, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
    for negative_iou, negatives in ((None, [18.0, 10.0]), (0.3, [10.0])):
        samples = Sampler(8, 0.5, iou=0.5, negative_iou=negative_iou)(proposals, targets, NUM_CLASSES)
        drawn = samples.boxes[0][samples.valid[0] & ~samples.positive[0]]
        assert sorted(drawn[:, 3].tolist(), reverse=True) == negatives
        assert samples.positive.sum() == 2
