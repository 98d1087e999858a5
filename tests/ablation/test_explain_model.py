"""What a model makes of one detection, against its predictor, torchvision's pasting and the operators themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maskrcnn_ops import RoIOp
from torch import nn
from torchvision.ops import ps_roi_align, roi_align

from maskrcnn import Predictor, mask_rcnn
from maskrcnn.ablation import explain_plots as draw
from maskrcnn.ablation.explain_model import Explanation, explain_detection
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.heads.position_sensitive import VoteHead
from maskrcnn.models.roi_pooling import RoIPooler

CPU = torch.device("cpu")
OPERATORS = {name: RoIOp.preset(name) for name in ("align", "warp", "pool")}
SHORT_SIDE = 128  # of the network's input: twice the picture's


def model() -> MaskRCNN:
    torch.manual_seed(0)
    made = mask_rcnn("resnet18", 2, small=True, norm="gn", score_threshold=0.0).eval()
    for layer in made.mask_head.predictor.modules():  # masks that differ from place to place
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=1.0)
    return made


def r_fcn() -> MaskRCNN:
    made = model()
    made.mask_head, made.box_head = (
        None,
        VoteHead(RoIPooler(RoIOp.preset("ps_align"), 3, 16), 64, 2, dim=None, score_threshold=0.0),
    )
    return made.eval()


def picture() -> Any:
    y, x = np.mgrid[:64, :96]
    return np.stack([x * 2, y * 3, 255 * ((x // 17 + y // 13) % 2)], 2).astype(np.uint8)


def explained(detector: MaskRCNN, index: int = 1, **operators: RoIOp) -> Explanation:
    transform = Transform(short_side=SHORT_SIDE)
    return explain_detection(detector, picture(), transform, 32, index, operators or OPERATORS, CPU)


def maps_of(detector: MaskRCNN) -> dict[int, torch.Tensor]:
    from maskrcnn.data.canvas import Canvas, batch_images
    from maskrcnn.prediction.batching import prepared

    sample = prepared(picture(), Transform(short_side=SHORT_SIDE))
    return detector.features(batch_images([sample.picture], Canvas(32)))


def test_the_answer_as_trained_is_the_predictors_mask() -> None:
    detector = model()
    found = explained(detector)
    predicted = Predictor(detector, Transform(short_side=SHORT_SIDE), device="cpu").predict([picture()])[0]
    assert found.score == pytest.approx(float(predicted.scores[1]))
    assert found.label == int(predicted.labels[1])
    assert found.trained.box == pytest.approx(predicted.boxes[1].tolist(), abs=1e-3)
    np.testing.assert_array_equal(found.trained.area, predicted.mask(1))
    np.testing.assert_array_equal(found.by_operator["align"][0].area, predicted.mask(1))


@torch.no_grad()
def test_each_operator_pools_the_box_and_the_box_half_a_cell_to_the_right() -> None:
    detector = model()
    found = explained(detector)
    x = maps_of(detector)[found.stride]
    before, after = found.by_operator["align"]
    assert np.subtract(after.box, before.box) == pytest.approx([found.stride / 4, 0, found.stride / 4, 0])
    for answer in (before, after):
        box = 2 * torch.tensor([answer.box])
        expected = roi_align(x, [box], 14, 1 / found.stride, 2, aligned=True)[0]
        torch.testing.assert_close(answer.pooled, expected, atol=1e-4, rtol=1e-4)
    assert not torch.equal(before.pooled, found.by_operator["pool"][0].pooled)
    assert detector.mask_head.pooler.operator == RoIOp.preset("align")  # is given back


def test_overlaps_are_those_of_the_pasted_masks() -> None:
    found = explained(model())
    for name, (before, after) in found.by_operator.items():
        both = (before.area & after.area).sum() / (before.area | after.area).sum()
        assert found.overlaps()[name] == pytest.approx(both)
        assert 0 < both < 1


@torch.no_grad()
def test_an_r_fcn_model_shows_its_score_maps_and_refined_boxes() -> None:
    detector = r_fcn()
    found = explained(detector, ps_align=RoIOp.preset("ps_align"), ps_pool=RoIOp.preset("ps_pool"))
    assert found.trained.mask is None
    assert found.channels == [found.label]
    maps = detector.box_head.trunk(maps_of(detector)[found.stride])
    expected = ps_roi_align(maps, [2 * torch.tensor([found.trained.box])], 3, 1 / found.stride, 2)[0]
    torch.testing.assert_close(found.trained.pooled, expected, atol=1e-4, rtol=1e-4)
    assert found.trained.area.any()


def test_what_cannot_be_explained_is_refused() -> None:
    with pytest.raises(UserError, match="detection=500: the model finds"):
        explained(model(), 500)
    with pytest.raises(UserError, match="detection=-1: "):
        explained(model(), -1)
    with pytest.raises(UserError, match="position-sensitive"):
        explained(r_fcn(), pool=RoIOp.preset("pool"))
    without = model()
    without.rpn = None
    with pytest.raises(UserError, match="RPN"):
        explained(without)


@pytest.mark.parametrize("make", [model, r_fcn])
def test_the_picture_has_a_row_of_panels_for_each_operator(make: Any, tmp_path: Path) -> None:
    operators = OPERATORS if make is model else {"ps_align": RoIOp.preset("ps_align")}
    found = explained(make(), **operators)
    draw.detection(found, "thing", picture(), tmp_path / "out.png")
    import cv2

    drawn = cv2.imread(str(tmp_path / "out.png"))
    assert drawn.shape[0] == pytest.approx(261 * (1 + len(operators)), abs=2)
