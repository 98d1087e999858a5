"""The mask head's three losses against loops, and that a detection gets its own class's mask."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.heads.mask import FCNPredictor, MaskHead, MLPPredictor
from maskrcnn.models.heads.trunks import ConvTrunk
from maskrcnn.models.losses import MASK_LOSSES
from maskrcnn.models.protocols import MaskLoss
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.structures import Detections, Images, Samples
from tests.models.batches import NUM_CLASSES, box_targets
from tests.models.test_box_head import CornerOp

SIDE = 4


class Fixed(nn.Module):
    """A predictor that says what it is told."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = nn.Parameter(torch.randn(4, num_maps, SIDE, SIDE, generator=generator))

    def forward(self, regions: Tensor) -> Tensor:
        return self.maps[: len(regions)]


def head_of(loss: MaskLoss | str = "sigmoid", mask_targets: str = "exact") -> MaskHead:
    """A head whose trunk passes regions on and whose predictor says what it is told."""
    pooler = RoIPooler(CornerOp(), 2)
    return MaskHead(pooler, nn.Identity(), Fixed, NUM_CLASSES, loss, mask_targets)  # type: ignore[arg-type]


FEATURES = {1: torch.zeros(2, 1, 50, 60)}
IMAGES = Images(torch.zeros(2, 3, 50, 60, dtype=torch.uint8), torch.tensor([[50.0, 60], [50, 60]]))


def positives() -> Samples:
    """Two images of two slots; the object covers the left half of the first region, all of the second; the last
    slot is empty."""
    boxes = torch.tensor([[[0.0, 0, 40, 40], [10, 10, 20, 20]], [[0, 0, 40, 20], [0, 0, 9, 9]]])
    labels = torch.tensor([[2, 0], [1, NUM_CLASSES]])
    positive = torch.tensor([[True, True], [True, False]])
    return Samples(boxes, labels, torch.tensor([[0, 1], [0, 0]]), positive, positive, 2)


def wanted() -> list[list[list[float]]]:
    half = [[1.0, 1, 0, 0]] * SIDE
    return [half, [[1.0] * SIDE] * SIDE, half]


@pytest.mark.parametrize("loss", ["sigmoid", "class_agnostic", "softmax"])
def test_loss_equals_the_loop(loss: str) -> None:
    targets = box_targets([[[0, 0, 20, 40], [10, 10, 20, 20]], [[0, 0, 20, 20]]], [[2, 0], [1]])
    head = head_of(loss)
    found = head.losses(FEATURES, positives(), targets, IMAGES)["mask"]
    maps, total = head.predictor.maps.tolist(), 0.0
    for region, (label, mask) in enumerate(zip((2, 0, 1), wanted(), strict=True)):
        for y in range(SIDE):
            for x in range(SIDE):
                cell = [m[y][x] for m in maps[region]]
                if loss == "softmax":
                    right = cell[label if mask[y][x] else NUM_CLASSES]
                    total -= math.log(math.exp(right) / sum(map(math.exp, cell)))
                else:
                    p = 1 / (1 + math.exp(-cell[0 if loss == "class_agnostic" else label]))
                    total -= math.log(p if mask[y][x] else 1 - p)
    assert found.count == 3
    assert found.total.item() == pytest.approx(total / SIDE**2, rel=1e-5)


def test_sigmoid_loss_reaches_the_true_class_alone() -> None:
    targets = box_targets([[[0, 0, 20, 40], [10, 10, 20, 20]], [[0, 0, 20, 20]]], [[2, 0], [1]])
    head = head_of()
    head.losses(FEATURES, positives(), targets, IMAGES)["mask"].total.backward()
    touched = head.predictor.maps.grad.abs().sum((2, 3)) > 0
    assert touched.tolist() == [[False, False, True], [True, False, False], [False, True, False], [False] * 3]


def test_detections_get_their_own_classes_map() -> None:
    head = head_of()
    labels, valid = torch.tensor([[2, 0], [1, 1]]), torch.ones(2, 2, dtype=torch.bool)
    given = Detections(positives().boxes, torch.ones(2, 2), labels, valid, masks=None)
    found = head.detect(FEATURES, given, IMAGES)
    assert found.masks is not None
    for region, label in enumerate(labels.flatten().tolist()):
        expected = 1 / (1 + torch.exp(-head.predictor.maps[region, label]))
        torch.testing.assert_close(found.masks.flatten(0, 1)[region], expected)
    assert found.boxes is given.boxes


class Dice:
    """A mask loss of a user's own: one map, and one minus the overlap of mask and prediction."""

    def num_maps(self, num_classes: int) -> int:
        return 1

    def __call__(self, logits: Tensor, masks: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        p = logits[:, 0].sigmoid()
        overlap = 2 * (p * masks).sum((1, 2)) / (p.sum((1, 2)) + masks.sum((1, 2)))
        return ((1 - overlap) * chosen).sum()

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 0].sigmoid()


def test_a_mask_loss_of_ones_own_and_the_built_in_ones_enter_by_the_same_door() -> None:
    assert all(isinstance(loss, MaskLoss) for loss in (*MASK_LOSSES.values(), Dice()))
    by_name, by_object = head_of("softmax"), head_of(MASK_LOSSES["softmax"])
    assert by_name.loss is by_object.loss
    targets = box_targets([[[0, 0, 20, 40], [10, 10, 20, 20]], [[0, 0, 20, 20]]], [[2, 0], [1]])
    head = head_of(Dice())
    found = head.losses(FEATURES, positives(), targets, IMAGES)["mask"]
    total = 0.0
    for region, mask in enumerate(wanted()):
        p = 1 / (1 + torch.exp(-head.predictor.maps[region, 0]))
        total += 1 - 2 * (p * torch.tensor(mask)).sum().item() / (p.sum().item() + sum(map(sum, mask)))
    assert found.total.item() == pytest.approx(total / SIDE**2, rel=1e-5)


def test_fcn_and_mlp_shapes() -> None:
    pooled = torch.randn(5, 6, 7, 7)
    trunk = ConvTrunk(6, dim=8, num_convs=2)
    fcn, mlp = partial(FCNPredictor, 8, dim=8), partial(MLPPredictor, 8, 7, dim=16, mask_size=28)
    assert MaskHead(RoIPooler(CornerOp(), 7), trunk, fcn, 3).predictor(trunk(pooled)).shape == (5, 3, 14, 14)
    assert MaskHead(RoIPooler(CornerOp(), 7), trunk, mlp, 3, "softmax").predictor(trunk(pooled)).shape == (
        5,
        4,
        28,
        28,
    )
    assert len(MLPPredictor(8, 7, 3, num_layers=3).layers) == 3


def test_boxes_without_masks_cannot_train_a_mask_head() -> None:
    targets = box_targets([[]], [[]])
    object.__setattr__(targets, "masks", None)
    head = head_of()
    with pytest.raises(ValueError, match="needs masks"):
        head.losses(FEATURES, positives(), targets, IMAGES)


def test_objects_without_a_mask_teach_nothing() -> None:
    targets = box_targets([[[0, 0, 20, 40], [10, 10, 20, 20]], [[0, 0, 20, 20]]], [[2, 0], [1]])
    assert targets.masks is not None
    targets.masks.size[0, 1] = 0
    head = head_of()
    loss = head.losses(FEATURES, positives(), targets, IMAGES)["mask"]
    assert loss.count == 2
    loss.total.backward()
    assert (head.predictor.maps.grad[1] == 0).all()


def test_targets_by_torchvisions_recipe_are_those_of_its_own_function() -> None:
    from torchvision.models.detection.roi_heads import project_masks_on_boxes

    targets = box_targets([[[4, 2, 20, 34], [10, 10, 18, 18]], [[0, 0, 16, 16]]], [[2, 0], [1]])
    given = positives()
    masks = torch.zeros(2, 2, 50, 60)
    for n, of_image in enumerate(targets.boxes):
        for g, (x1, y1, x2, y2) in enumerate(of_image[:2].int().tolist()):
            masks[n, g, y1:y2, x1:x2] = 1
    wanted = [project_masks_on_boxes(masks[n], given.boxes[n], given.matched[n], SIDE) for n in (0, 1)]
    losses = []
    for recipe in ("exact", "bitmap_align"):
        head = head_of("class_agnostic", recipe)
        found = head.losses(FEATURES, given, targets, IMAGES)["mask"]
        losses.append(found.total.item())
    expected = sum(
        torch.nn.functional.binary_cross_entropy_with_logits(maps[0], mask, reduction="sum")
        for maps, mask, used in zip(head.predictor.maps, torch.cat(wanted), (1, 1, 1, 0), strict=True)
        if used
    )
    assert losses[1] == pytest.approx(expected.item() / SIDE**2, rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_empty_regions_are_no_part_of_batch_norm() -> None:
    """Against torch's batch norm of the other regions by themselves: outputs, gradients and running statistics."""
    torch.manual_seed(0)
    padded, alone = (ConvTrunk(3, dim=4, num_convs=2, norm="bn").double().train() for _ in range(2))
    alone.load_state_dict(padded.state_dict())
    alone.has_batch_norm = False  # so the norms are called as torch's
    regions = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    filled = torch.cat([regions[:2], torch.zeros(3, 3, 6, 6), regions[2:]])
    expected, found = alone(regions), padded(filled)[[0, 1, 5, 6, 7]]
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    for ours, theirs in zip(padded.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(padded.state_dict()[name], value)
    before = {name: value.clone() for name, value in padded.state_dict().items()}
    assert padded(torch.zeros(2, 3, 6, 6, dtype=torch.float64)).isfinite().all()
    assert all(torch.equal(padded.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(UserError, match="sync_bn"):
        ConvTrunk(3, norm="sync_bn")
