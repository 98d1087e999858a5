"""`init=FILE` takes torchvision's and Detectron2's files by their names, says so, and re-makes what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.training.initialise import initialise
from tests.models.test_detector import build
from tests.weights.detectron2_names import fpn
from tests.weights.published import FAMILIES
from tests.weights.test_detectron2 import random_state


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """With the names of the first published files."""
    with torch.device("meta"):
        names = FAMILIES["mask_frozen"](num_classes=4).state_dict()
    shapes = {name: tuple(value.shape) for name, value in names.items()}
    state = {former(name): value for name, value in random_state(shapes).items()}
    path = tmp_path_factory.mktemp("tv") / "maskrcnn.pth"
    torch.save(state, path)
    return path, state


def former(name: str) -> str:
    for number in range(4):
        name = name.replace(f"roi_heads.mask_head.{number}.0.", f"roi_heads.mask_head.mask_fcn{number + 1}.")
        for blocks in ("inner_blocks", "layer_blocks"):
            name = name.replace(f"{blocks}.{number}.0.", f"{blocks}.{number}.")
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


def r50_fpn(*overrides: str) -> MaskRCNN:
    return build("model=r50_fpn", "model.backbone.norm=frozen_bn", *overrides)


def test_torchvisions_file(torchvision_file: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = torchvision_file
    model = r50_fpn()
    skipped, words = initialise(model, path, reset_heads=False)
    assert skipped == []
    text = "\n".join(words)
    assert "the names are torchvision's" in text
    assert "rpn.anchors.rounded is False, torchvision's models have True" in text
    assert "box_head.pooler.operator.offset is 0.5" in text
    own = model.state_dict()
    assert torch.equal(own["backbone.stem.0.weight"], state["backbone.body.conv1.weight"])
    assert torch.equal(own["mask_head.trunk.convs.2.bias"], state["roi_heads.mask_head.mask_fcn3.bias"])
    scores = state["roi_heads.box_predictor.cls_score.bias"]  # background first there, last here
    assert own["box_head.logits.bias"].tolist() == [*scores[1:].tolist(), scores[0].item()]
    assert torch.equal(own["box_head.deltas.bias"], state["roi_heads.box_predictor.bbox_pred.bias"][4:])
    maps = state["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    assert torch.equal(own["mask_head.predictor.logits.weight"], maps[1:])


def test_another_number_of_classes_and_of_channels(torchvision_file: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = torchvision_file
    statistics = [
        "model.pixel_mean=[1,2,3,4,5]",
        "model.pixel_std=[1,1,1,1,1]",
        "model.backbone.in_channels=5",
    ]
    model = r50_fpn("model.box_head.num_classes=7", "model.mask_head.num_classes=7", *statistics)
    with pytest.raises(
        UserError, match=r"(?s)box_head\.logits\.weight: \[4, 1024\] in the file, \[8, 1024\] here"
    ):
        initialise(model, path, reset_heads=False)
    before = model.state_dict()["box_head.logits.weight"].clone()
    skipped, words = initialise(model, path, reset_heads=True)
    heads = {"box_head.logits", "box_head.deltas", "mask_head.predictor.logits"}
    assert {name for name, _ in skipped} == {
        f"{head}.{part}" for head in heads for part in ("weight", "bias")
    }
    table = {line.split()[0]: line.split()[1:4] for line in words if " kept" in line}
    assert table["box_head.logits"] == ["0", "of", "2"]
    assert table["box_head.trunk"] == ["4", "of", "4"]
    assert table["mask_head.predictor"] == ["2", "of", "4"]
    own = model.state_dict()
    assert torch.equal(own["box_head.logits.weight"], before)
    stem = state["backbone.body.conv1.weight"].double().mean(1) * 3 / 5
    for channel in range(5):
        torch.testing.assert_close(
            own["backbone.stem.0.weight"][:, channel].double(), stem, atol=1e-6, rtol=1e-5
        )
    assert any("for each of 5" in line for line in words)


@pytest.mark.slow
def test_detectron2s_pickle(tmp_path: Path) -> None:
    state = random_state(fpn(50, 3))
    content = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "x"}
    (tmp_path / "model_final_a1b2c3.pkl").write_bytes(pickle.dumps(content))
    model = r50_fpn()
    skipped, words = initialise(model, tmp_path / "model_final_a1b2c3.pkl", reset_heads=False)
    assert skipped == []
    text = "\n".join(words)
    assert "the names are Detectron2's" in text
    assert "backbone.stride_in_1x1 is False, Detectron2's models have True" in text
    assert "dilate_first" not in text
    own = model.state_dict()
    assert torch.equal(own["box_head.deltas.bias"], state["roi_heads.box_predictor.bbox_pred.bias"])
    deviation = torch.tensor([58.395, 57.12, 57.375]).view(
        1, 3, 1, 1
    )  # pixels are divided by it here, not there
    expected = state["backbone.bottom_up.stem.conv1.weight"][:, [2, 1, 0]] * deviation
    torch.testing.assert_close(own["backbone.stem.0.weight"], expected)
