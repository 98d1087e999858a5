"""The keypoint head against torchvision's keypoint R-CNN: targets, loss, decoding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import (
    heatmaps_to_keypoints,
    keypointrcnn_loss,
    keypoints_to_heatmap,
)

from maskrcnn.models.heads.keypoint import KeypointHead, cells_of, points_of
from maskrcnn.models.heads.trunks import ConvTrunk
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Samples, Targets
from tests.models.batches import box_targets, random_images
from tests.models.test_box_head import CornerOp

J, M = 5, 56


def random_boxes(count: int, least: float = 4, most: float = 400, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 300
    size = least + (most - least) * torch.rand(count, 2, generator=generator) ** 2
    return torch.cat([corner, corner + size], 1)


def random_keypoints(boxes: Tensor, seed: int = 0) -> Tensor:
    """Some within their box, some outside, some on its edges, some not labelled."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(len(boxes), J, 2, generator=generator) * 1.4 - 0.2
    place[:, 0], place[:, 1] = 1.0, 0.0
    points = boxes[:, None, :2] + place * (boxes[:, None, 2:] - boxes[:, None, :2])
    points[:, 0] = boxes[:, 2:]
    visibility = torch.randint(0, 3, (len(boxes), J, 1), generator=generator)
    return torch.cat([points, visibility], 2)


def test_cells_are_torchvisions() -> None:
    boxes = random_boxes(200)
    keypoints = random_keypoints(boxes)
    found, valid = cells_of(keypoints[None], boxes[None], M)
    expected, expected_valid = keypoints_to_heatmap(keypoints, boxes, M)
    assert torch.equal(valid[0].long(), expected_valid)
    assert torch.equal(found[0][valid[0]], expected[expected_valid.bool()])
    assert 0 < valid.sum() < valid.numel()


def samples_and_targets() -> tuple[Samples, Targets, Tensor, Tensor]:
    boxes = random_boxes(8, 20).reshape(2, 4, 4)
    keypoints = random_keypoints(boxes.flatten(0, 1)).reshape(2, 4, J, 3)
    positive = torch.tensor([[True, True, True, False], [True, True, False, False]])
    matched = torch.tensor([[2, 0, 1, 0], [3, 1, 0, 0]])
    targets = box_targets([[], []], [[], []], padded=4)
    object.__setattr__(targets, "keypoints", keypoints)
    samples = Samples(boxes, torch.zeros_like(matched), matched, positive, positive, 4)
    return samples, targets, keypoints, boxes


def head(logits: Tensor) -> KeypointHead:
    built = KeypointHead(RoIPooler(CornerOp(), 14), ConvTrunk(3, dim=4, num_convs=1), J)
    built.heatmaps = lambda features, boxes, valid: logits  # type: ignore[method-assign]
    return built


def test_loss_is_torchvisions() -> None:
    samples, targets, keypoints, boxes = samples_and_targets()
    logits = torch.randn(2, 4, J, M, M, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = head(logits).losses({}, samples, targets, random_images(2, 100))["keypoint"]
    chosen = samples.positive
    expected = keypointrcnn_loss(
        logits[chosen],
        [boxes[n][chosen[n]] for n in range(2)],
        [keypoints[n] for n in range(2)],
        [samples.matched[n][chosen[n]] for n in range(2)],
    )
    assert found.count > 0
    torch.testing.assert_close(found.total / found.count, expected)
    gradient, wanted = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found.total, expected))
    torch.testing.assert_close(gradient / found.count, wanted)


def test_objects_without_keypoints_teach_nothing() -> None:
    samples, targets, keypoints, _ = samples_and_targets()
    keypoints[..., 2] = 0
    logits = torch.randn(2, 4, J, M, M, requires_grad=True)
    found = head(logits).losses({}, samples, targets, random_images(2, 100))["keypoint"]
    assert found.count == 0
    found.total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()
    object.__setattr__(targets, "keypoints", None)
    with pytest.raises(ValueError, match="needs keypoints"):
        head(logits).losses({}, samples, targets, random_images(2, 100))


def bumps(count: int, size: int = M, seed: int = 0) -> Tensor:
    """Heatmaps as a trained head makes them: bumps of several cells, no two as high."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(count, J, size // 4, size // 4, generator=generator)
    return nn.functional.interpolate(rough, (size, size), mode="bilinear", align_corners=False)


def test_decoding_is_torchvisions() -> None:
    boxes, logits = random_boxes(300, 2, 900), bumps(300)
    found = points_of(logits[None], boxes[None])[0]
    expected, peaks = heatmaps_to_keypoints(logits, boxes)
    near = (found[..., :2] - expected[..., :2]).abs().amax(-1) < 1e-3
    probability = (peaks - logits.flatten(2).logsumexp(-1)).exp()
    torch.testing.assert_close(found[..., 2][near], probability[near], atol=1e-6, rtol=1e-4)
    assert near.float().mean() > 0.98
    # Else two bumps are as high as each other but for what the first look cannot tell.
    assert (found[..., 2] / probability)[~near].min() > 0.95


def test_decoding_of_small_boxes_looks_at_every_pixel() -> None:
    boxes = random_boxes(100, 0.3, 2 * M)
    logits = torch.randn(100, J, M, M, generator=torch.Generator().manual_seed(3))  # no bumps: noise
    found = points_of(logits[None], boxes[None])[0]
    expected, _ = heatmaps_to_keypoints(logits, boxes)
    torch.testing.assert_close(found[..., :2], expected[..., :2], atol=1e-3, rtol=0)


def test_what_is_taught_is_what_is_decoded() -> None:
    """A one-hot target gives the keypoint back to half a cell."""
    boxes = random_boxes(60, 60, 300)
    keypoints = random_keypoints(boxes)
    cells, valid = cells_of(keypoints[None], boxes[None], M)
    logits = nn.functional.one_hot(cells, M * M).float().reshape(1, -1, J, M, M) * 20
    found = points_of(logits, boxes[None])[0]
    cell = (boxes[:, 2:] - boxes[:, :2])[:, None] / M
    apart = ((found[..., :2] - keypoints[..., :2]).abs() / cell)[valid[0]]
    assert apart.max() < 0.5 + 1.0 / 1.07  # half a cell, and a pixel where a cell is hardly more than that
    assert apart.mean() < 0.35


def test_the_network_is_torchvisions() -> None:
    ours = KeypointHead(RoIPooler(CornerOp(), 14), ConvTrunk(6, dim=16, num_convs=8), J)
    convs, predictor = KeypointRCNNHeads(6, (16,) * 8), KeypointRCNNPredictor(16, J)
    theirs = {**convs.state_dict(), **predictor.state_dict()}
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.values(), strict=True)))
    pooled = torch.randn(3, 6, 14, 14)
    ours.pooler.forward = lambda *_: pooled  # type: ignore[method-assign]
    found = ours.heatmaps({}, torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found[0], predictor(convs(pooled)))
    assert found.shape == (1, 3, J, M, M)


def test_decoding_of_no_detections_and_under_autocast() -> None:
    none = points_of(torch.zeros(2, 0, 3, 8, 8), torch.zeros(2, 0, 4))
    assert none.shape == (2, 0, 3, 3)
    logits = torch.randn(1, 4, 3, 14, 14, generator=torch.Generator().manual_seed(0)) * 10
    boxes = torch.tensor([[[3.0, 5.0, 211.0, 340.0]]]).expand(1, 4, 4)
    exact = points_of(logits, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(points_of(logits, boxes), exact)
