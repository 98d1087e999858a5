"""Models on torchvision's other networks train by config alone, and published files start a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from maskrcnn.cli import train
from maskrcnn.config.build import load_trained
from tests.docs.commands import of_page, parts
from tests.weights.published import FAMILIES

FEW = [
    "schedule.steps=3",
    "model.sampler.num_samples=16",
    "model.rpn.post_nms_train=50",
    "model.rpn.post_nms_test=20",
]


def without_model(tiny: Sequence[str]) -> list[str]:
    return [text for text in tiny if not text.startswith(("model.", "schedule.steps"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "vgg16", "mobilenet_v3_fpn", "convnext_tiny_fpn", "swin_t_fpn"]
)
def test_three_steps_on_shapes(name: str, tiny: Sequence[str], tmp_path: Path) -> None:
    train.main([*without_model(tiny), *FEW, f"model={name}", f"run_dir={tmp_path}"])
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["step"] == 3
    assert all(value.isfinite().all() for value in content["model"].values())
    kinds = {"bbox"} if name in ("mobilenet_v2", "vgg16") else {"bbox", "segm"}
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == kinds


@pytest.mark.slow
def test_a_run_starts_from_torchvisions_file(
    tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    state = FAMILIES["mask_frozen"](num_classes=91).state_dict()
    torch.save(state, tmp_path / "maskrcnn.pth")
    start = [
        f"init={tmp_path / 'maskrcnn.pth'}",
        "init.reset_heads=true",
        "schedule.steps=1",
        "schedule.lr=0",
    ]
    arguments = [*without_model(tiny), *FEW[1:], *start, f"run_dir={tmp_path / 'run'}"]
    train.main([*arguments, "model=torchvision_mask_rcnn", "roi_op=align_legacy", "data.resampling=float"])
    printed = capsys.readouterr().out
    assert "the names are torchvision's" in printed
    assert "settings that differ" not in printed
    assert "box_head.logits" in printed
    found = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert torch.equal(found["backbone.stem.0.weight"], state["backbone.body.conv1.weight"])
    assert torch.equal(found["box_head.trunk.layers.0.weight"], state["roi_heads.box_head.fc6.weight"])


@pytest.mark.slow
def test_the_pages_line_for_torchvisions_models_runs(
    tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a checkpoint of torchvision's reference script; nothing but the new classes' layers starts from random."""
    page = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text()
    (line,) = [text for text in of_page(page) if "data.resampling=float" in text]
    found = parts(line)
    assert found is not None
    torch.manual_seed(0)
    state = FAMILIES["mask_frozen"](num_classes=91).state_dict()
    script = {"model": state, "optimizer": {}, "args": argparse.Namespace(epochs=26), "epoch": 25}
    torch.save(script, tmp_path / "model_25.pth")
    kept = [text for text in found[1] if not text.startswith(("data=", "data.train_", "data.val_", "init="))]
    few = [*FEW, "schedule.steps=1", f"init={tmp_path / 'model_25.pth'}", f"run_dir={tmp_path / 'run'}"]
    train.main([*without_model(tiny), *kept, *few])
    printed = capsys.readouterr().out
    fresh = {row.split()[0].rstrip(":") for row in printed.splitlines() if " in the file, " in row}
    layers = ("box_head.logits", "box_head.deltas", "mask_head.predictor.logits")
    assert fresh == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert config.data.test_transform.resampling == "float"
    model = load_trained(str(tmp_path / "run" / "last.pt"))[1]
    for head in (model.box_head, model.mask_head):
        assert head is not None
        # torchvision's aligned=False: no half pixel, and regions of a cell at least.
        assert (head.pooler.operator.offset, head.pooler.operator.min_width) == (0, 1)
