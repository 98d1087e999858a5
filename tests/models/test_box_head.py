"""The box head against torchvision's losses and its per-image post-processing."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from maskrcnn.models import boxes as box_ops
from maskrcnn.models.heads.box import BoxHead
from maskrcnn.models.heads.trunks import FullyConnected, TwoFCTrunk
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Images, Proposals, Samples
from tests.models.batches import NUM_CLASSES, random_images, random_targets
from tests.models.test_boxes import random_boxes


class CornerOp:
    """A stand-in RoI operator: a region's features are its coordinates, so the head has something to go by."""

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        values = (boxes / 100).flatten(0, 1)[:, :, None, None]
        return values.expand(-1, -1, output_size, output_size)


def make_head(class_agnostic: bool = False, **settings: float) -> BoxHead:
    torch.manual_seed(0)
    head = BoxHead(
        RoIPooler(CornerOp(), 2),
        TwoFCTrunk(4, 2, dim=32),
        NUM_CLASSES,
        class_agnostic,
        **settings,  # type: ignore[arg-type]
    )
    nn.init.normal_(head.logits.weight, std=1.5)
    nn.init.normal_(head.deltas.weight, std=0.3)
    return head


def samples_of(targets_boxes: Tensor, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(12, seed), random_boxes(12, seed + 1)])
    positive = torch.arange(12).expand(2, 12) < torch.tensor([[4], [2]])
    labels = torch.where(positive, torch.randint(0, NUM_CLASSES, (2, 12), generator=generator), NUM_CLASSES)
    matched = torch.where(positive, torch.randint(0, 1, (2, 12), generator=generator), 0)
    valid = torch.arange(12).expand(2, 12) < torch.tensor([[12], [9]])
    return Samples(boxes, labels, matched, valid, positive, 4)


def test_losses_equal_torchvisions_over_the_valid_samples() -> None:
    head, targets = make_head(beta=1 / 9), random_targets(2, 100)
    samples = samples_of(targets.boxes, 3)
    losses = head.losses({}, samples, targets, random_images(2, 100))
    logits, deltas = head.predict({}, samples.boxes, samples.valid)
    chosen = samples.valid.flatten()
    # torchvision's background is 0, and its deltas have a slot for it.
    tv_labels = (samples.labels.flatten() + 1) % (NUM_CLASSES + 1)
    tv_logits = logits.flatten(0, 1).roll(1, dims=1)
    tv_deltas = torch.cat([torch.zeros(24, 1, 4), deltas.flatten(0, 1)], 1).flatten(1)
    objects = torch.gather(targets.boxes, 1, samples.matched[..., None].expand(-1, -1, 4))
    wanted = box_ops.encode(objects, samples.boxes, (10, 10, 5, 5)).flatten(0, 1)
    classification, regression = fastrcnn_loss(
        tv_logits[chosen], tv_deltas[chosen], [tv_labels[chosen]], [wanted[chosen]]
    )
    assert losses["box_class"].count == 21
    torch.testing.assert_close(losses["box_class"].total / 21, classification)
    torch.testing.assert_close(losses["box_regression"].total / 21, regression)


def test_invalid_samples_weigh_nothing() -> None:
    head, targets = make_head(), random_targets(2, 100)
    samples = samples_of(targets.boxes, 3)
    before = head.losses({}, samples, targets, random_images(2, 100))
    samples.boxes[~samples.valid] = 7.0
    samples.labels[~samples.valid] = 1
    after = head.losses({}, samples, targets, random_images(2, 100))
    assert all(before[name].total == after[name].total for name in before)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_detections_equal_torchvisions(class_agnostic: bool) -> None:
    head = make_head(class_agnostic, num_detections=30)
    boxes = torch.stack([random_boxes(60, 8), random_boxes(60, 9)])
    proposals = Proposals(boxes, torch.zeros(2, 60), torch.ones(2, 60, dtype=torch.bool))
    images = Images(
        torch.zeros(2, 3, 100, 120, dtype=torch.uint8), torch.tensor([[90.0, 110.0], [100.0, 120.0]])
    )
    found = head.detect({}, proposals, images)
    logits, deltas = head.predict({}, boxes, proposals.valid)
    deltas = deltas.expand(-1, -1, NUM_CLASSES, 4)
    theirs = RoIHeads(None, None, None, 0.5, 0.5, 64, 0.25, None, 0.05, 0.5, 30)  # type: ignore[arg-type]
    tv_boxes, tv_scores, tv_labels = theirs.postprocess_detections(
        logits.flatten(0, 1).roll(1, dims=1),
        torch.cat([torch.zeros(120, 1, 4), deltas.flatten(0, 1)], 1).flatten(1),
        list(boxes),
        [(90, 110), (100, 120)],
    )
    for n in range(2):
        valid = found.valid[n]
        assert valid.sum() == len(tv_scores[n]) > 5
        torch.testing.assert_close(found.scores[n][valid], tv_scores[n])
        assert torch.equal(found.labels[n][valid] + 1, tv_labels[n])
        torch.testing.assert_close(found.boxes[n][valid], tv_boxes[n], atol=1e-3, rtol=1e-4)


def test_invalid_proposals_are_never_detected() -> None:
    head = make_head()
    boxes = random_boxes(10, 8)[None]
    proposals = Proposals(boxes, torch.zeros(1, 10), torch.zeros(1, 10, dtype=torch.bool))
    found = head.detect({}, proposals, Images(torch.zeros(1, 3, 100, 100), torch.full((1, 2), 100.0)))
    assert not found.valid.any()
    assert (found.scores == 0).all()


def test_small_detections_are_dropped_and_all_candidates_may_be_kept() -> None:
    head = make_head(score_threshold=0.0, nms_iou=1.0, num_detections=1000)
    boxes = random_boxes(30, 5)[None]
    proposals = Proposals(boxes, torch.zeros(1, 30), torch.ones(1, 30, dtype=torch.bool))
    images = Images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[100.0, 100.0]]))
    with torch.no_grad():
        head.num_candidates = None
        every = head.detect({}, proposals, images)
        sides = (every.boxes[..., 2:] - every.boxes[..., :2]).amin(-1)
        head.min_size = sides[every.valid].median().item()
        large = head.detect({}, proposals, images)
        head.min_size, head.num_candidates = 0.0, 10
        few = head.detect({}, proposals, images)
    assert every.valid.sum() > 80
    assert large.valid.sum() == (every.valid & (sides >= sides[every.valid].median())).sum()
    assert torch.equal(few.scores[0], every.scores[0, :10])


def test_a_box_for_background_changes_nothing() -> None:
    with_row, without = make_head(background_box=True), make_head()
    assert with_row.deltas.out_features == without.deltas.out_features + 4
    with torch.no_grad():
        for name in ("logits", "deltas"):
            ours, theirs = getattr(without, name), getattr(with_row, name)
            ours.weight.copy_(theirs.weight[: len(ours.weight)])
        without.trunk.load_state_dict(with_row.trunk.state_dict())
    boxes = random_boxes(9, 1)[None]
    for found, expected in zip(
        with_row.predict({}, boxes, torch.ones(1, 9, dtype=torch.bool)),
        without.predict({}, boxes, torch.ones(1, 9, dtype=torch.bool)),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("regions", [0, 1, 300])
def test_a_fully_connected_layer_is_a_product(
    threads: int, regions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output and gradients are those of a product in float64; in float32 they are computed as a convolution."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        layer = FullyConnected(196, 64)
        x, grad = torch.randn(regions, 196).requires_grad_(), torch.randn(regions, 64)
        out = layer(x)
        found = torch.autograd.grad(out, (x, layer.weight, layer.bias), grad)
    finally:
        torch.set_num_threads(before)
    wide, g = x.detach().double(), grad.double()
    expected = [wide @ layer.weight.double().T + layer.bias.double()]
    expected += [g @ layer.weight.double(), g.T @ wide, g.sum(0)]
    assert out.shape == (regions, 64)
    for own, wanted in zip((out, *found), expected, strict=True):
        torch.testing.assert_close(own.double(), wanted, atol=1e-4, rtol=1e-5)


def test_a_fully_connected_layer_is_a_linear_one_where_that_is_faster() -> None:
    """Half precision, one thread and what is compiled: bitwise torch's own."""
    layer = FullyConnected(32, 16)
    plain = nn.Linear(32, 16)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(50, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
    exported = torch.export.export(layer, (x,))
    assert [node.target for node in exported.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.linear.default
    ]
