"""R-FCN's and Light-Head's heads against torchvision's position-sensitive operator, and OHEM against a loop."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from maskrcnn_ops import RoIOp
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.boxes import encode
from maskrcnn.models.detector import Sampler
from maskrcnn.models.heads.position_sensitive import LargeSeparable, LightHead, VoteHead
from maskrcnn.models.heads.trunks import TwoFCTrunk
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Proposals
from tests.models.batches import NUM_CLASSES, random_images, random_targets
from tests.models.test_box_head import make_head, samples_of
from tests.models.test_detector import build

P = 3
BOXES = torch.tensor([[[4.0, 8, 60, 50], [10, 10, 30, 90]], [[0, 0, 95, 95], [33, 20, 47, 70]]])
VALID = torch.tensor([[True, True], [True, False]])


class TorchvisionAlign:
    """torchvision's ps_roi_align of the only map."""

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        ((stride, x),) = features.items()
        pooled = torchvision.ops.ps_roi_align(x, list(boxes), output_size, 1 / stride, 2)
        return pooled * valid.flatten()[:, None, None, None]


def pooled(maps: Tensor, boxes: Tensor) -> Tensor:
    return torchvision.ops.ps_roi_align(maps, list(boxes), P, 1 / 8, 2).unflatten(0, boxes.shape[:2])


def test_votes_are_the_means_of_torchvisions_bins() -> None:
    torch.manual_seed(0)
    head = VoteHead(RoIPooler(TorchvisionAlign(), P), 5, NUM_CLASSES, dim=6)
    x = torch.randn(2, 5, 12, 12)
    logits, deltas = head.predict({8: x}, BOXES, VALID)
    maps = head.trunk(x)
    assert maps.shape[1] == P * P * (NUM_CLASSES + 1 + 4)
    scores, boxes = maps.split([P * P * (NUM_CLASSES + 1), P * P * 4], 1)
    torch.testing.assert_close(logits[VALID], pooled(scores, BOXES)[VALID].mean((2, 3)))
    torch.testing.assert_close(deltas[VALID], pooled(boxes, BOXES)[VALID].mean((2, 3))[:, None])
    assert deltas.shape == (2, 2, 1, 4)


def test_every_bin_votes_with_its_own_map() -> None:
    """Map k is k everywhere, so class c gets the mean of (c P + i) P + j over the bins (i, j)."""
    head = VoteHead(RoIPooler(TorchvisionAlign(), P), 1, NUM_CLASSES, dim=None)
    nn.init.zeros_(head.trunk[0].weight)
    head.trunk[0].bias.data = torch.arange(P * P * (NUM_CLASSES + 5), dtype=torch.float32)
    inner = torch.tensor([[[20.0, 20, 60, 60]]])
    logits, deltas = head.predict({8: torch.zeros(1, 1, 12, 12)}, inner, torch.ones(1, 1, dtype=torch.bool))
    wanted = [
        sum((c * P + i) * P + j for i in range(P) for j in range(P)) / P**2 for c in range(NUM_CLASSES + 5)
    ]
    torch.testing.assert_close(torch.cat([logits[0, 0], deltas[0, 0, 0]]), torch.tensor(wanted))


def test_light_head_runs_its_trunk_on_thin_regions() -> None:
    torch.manual_seed(0)
    trunk = TwoFCTrunk(2, P, dim=16, num_layers=1)
    head = LightHead(
        RoIPooler(TorchvisionAlign(), P), LargeSeparable(5, 2 * P * P, dim=4, size=5), trunk, NUM_CLASSES
    )
    x = torch.randn(2, 5, 12, 12)
    maps = head.maps(x)
    assert maps.shape == (2, 2 * P * P, 12, 12)
    logits, deltas = head.predict({8: x}, BOXES, VALID)
    regions = trunk(pooled(maps, BOXES)[VALID])
    torch.testing.assert_close(logits[VALID], head.logits(regions))
    torch.testing.assert_close(deltas[VALID][:, 0], head.deltas(regions))
    # A row of ones through one path sees 5 cells along each axis and no more.
    seen = torch.zeros(1, 5, 12, 12, requires_grad=True)
    head.maps.paths[0](seen)[0, 0, 6, 6].backward()
    assert seen.grad is not None
    rows, columns = seen.grad.abs().sum((0, 1)).nonzero().unbind(1)
    assert (rows.unique().tolist(), columns.unique().tolist()) == ([4, 5, 6, 7, 8], [4, 5, 6, 7, 8])


def test_r_fcn_learns_a_scene_by_heart() -> None:
    torch.manual_seed(0)
    head = VoteHead(RoIPooler(TorchvisionAlign(), P), 4, NUM_CLASSES, dim=None, score_threshold=0.5)
    targets, images = random_targets(1, 96, seed=3), random_images(1, 96)
    x = torch.randn(1, 4, 12, 12)
    net = nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 1))
    optimizer = torch.optim.Adam([*head.parameters(), *net.parameters()], lr=0.01)
    boxes = torch.cat([targets.boxes, torch.tensor([[[0.0, 0, 20, 20], [60, 60, 95, 95]]])], 1)
    given = Proposals(boxes, torch.zeros(boxes.shape[:2]), torch.ones(boxes.shape[:2], dtype=torch.bool))
    samples = Sampler(16, 1.0)(given, targets, NUM_CLASSES)
    losses = []
    for _ in range(150):
        terms = head.losses({8: net(x)}, samples, targets, images).values()
        loss = torch.stack([term.total / term.count for term in terms]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_hard_examples_are_those_of_the_largest_loss() -> None:
    head, targets = make_head(), random_targets(2, 100)
    samples = samples_of(targets.boxes, 3)
    images = random_images(2, 100)
    hard = type(samples)(**{**vars(samples), "hardest": 2})
    assert Sampler(8, hardest=2).hardest == 2
    logits, deltas = head.predict({}, samples.boxes, samples.valid)
    scored = []
    for n in range(2):
        terms = []
        for k in range(samples.boxes.shape[1]):
            if not samples.valid[n, k]:
                continue
            label = int(samples.labels[n, k])
            one = -logits[n, k].log_softmax(-1)[label].item()
            box = 0.0
            if samples.positive[n, k]:
                target = encode(
                    targets.boxes[n, samples.matched[n, k]], samples.boxes[n, k], head.box_weights
                )
                for d in (deltas[n, k, label] - target).tolist():
                    box += 0.5 * d * d / head.beta if abs(d) < head.beta else abs(d) - 0.5 * head.beta
            terms.append((one + box, one, box))
        scored.append(sorted(terms, reverse=True)[:2])
    chosen = [term for terms in scored for term in terms]
    found = head.losses({}, hard, targets, images)
    assert found["box_class"].count == found["box_regression"].count == len(chosen) == 4
    assert math.isclose(found["box_class"].total.item(), sum(t[1] for t in chosen), rel_tol=1e-4)
    assert math.isclose(found["box_regression"].total.item(), sum(t[2] for t in chosen), rel_tol=1e-4)
    assert head.losses({}, samples, targets, images)["box_class"].count > 4


def test_operators_of_the_family_become_position_sensitive() -> None:
    head = VoteHead(RoIPooler(RoIOp.preset("align"), P), 5, NUM_CLASSES)
    assert head.pooler.operator == RoIOp.preset("ps_align")
    kept = VoteHead(RoIPooler(RoIOp.preset("ps_pool"), P), 5, NUM_CLASSES)
    assert kept.pooler.operator == RoIOp.preset("ps_pool")
    with pytest.raises(UserError, match="choose roi_op=ps_align"):
        VoteHead(RoIPooler(RoIOp.preset("pool"), P), 5, NUM_CLASSES)


@pytest.mark.parametrize("operator", ["ps_align", "ps_warp", "ps_pool", "ps_pool_rfcn"])
def test_the_model_trains_with_every_operator(operator: str) -> None:
    model = build("model=rfcn_r18", f"roi_op={operator}", "model.sampler.num_samples=16")
    losses = model.losses(random_images(2, 64), random_targets(2, 64))
    sum(loss.total for loss in losses.values()).backward()
    assert model.box_head is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.box_head.parameters())
