"""`maskrcnn receptive` prints and draws what `receptive_field` measures."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from maskrcnn.cli import receptive
from maskrcnn.config import compose as configs
from maskrcnn.config.build import build_model
from maskrcnn.errors import UserError
from maskrcnn.models.receptive import receptive_field

SMALL = ["side=128", "directions=2"]


def test_the_table_has_the_numbers_of_every_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receptive.main(["model=r18_c4", f"run_dir={tmp_path}", *SMALL])
    printed = capsys.readouterr().out
    torch.manual_seed(0)
    backbone = configs.build(configs.compose_config("train", ["model=r18_c4"]).model.backbone)
    for stride in (4, 8, 16):
        field = receptive_field(backbone, stride, 128, 2)
        (line,) = (line for line in printed.splitlines() if line.startswith(f"│ {stride} "))
        assert f"{field.shift[0]:+.3f}" in line
        assert f"{field.offset:.3f}" in line
    assert cv2.imread(str(tmp_path / "cells.png")).shape[1] > 3 * 300  # three panels


def test_a_trained_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configs.compose_config("train", ["model=r18_c4", "num_classes=1", "seed=5"])
    torch.manual_seed(5)
    model = build_model(config)
    state = {"model": model.state_dict(), "config": configs.plain(config, resolve=False), "step": 1}
    torch.save(state, tmp_path / "best.pt")
    receptive.main([f"checkpoint={tmp_path / 'best.pt'}", f"run_dir={tmp_path}", *SMALL])
    field = receptive_field(model.backbone, 16, 128, 2)
    assert f"{field.shift[1]:+.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "named"), [("side=100", "64"), ("directions=1", "2"), ("sid=128", "unknown key")]
)
def test_wrong_settings_are_refused(wrong: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        receptive.main([wrong])
