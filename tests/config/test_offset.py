"""`roi_op.offset=measured` becomes the number that the backbone's cells say."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from maskrcnn.config import build
from maskrcnn.config import compose as configs
from maskrcnn.config.build import build_model, pin_offset
from maskrcnn.errors import UserError
from maskrcnn.models.receptive import receptive_field

ONE_MAP = ["model=r18_c4_fpnhead", "num_classes=1"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement in small, which is not what is tested here."""
    monkeypatch.setattr(build, "receptive_field", partial(receptive_field, side=256, directions=3))


def test_all_heads_get_the_offset_of_the_model_that_is_built() -> None:
    config = configs.compose_config("train", [*ONE_MAP, "roi_op.offset=measured"])
    torch.manual_seed(3)
    pin_offset(config, None)
    model = build_model(config)
    measured = receptive_field(model.backbone, 16, side=256, directions=3).offset
    assert config.roi_op.offset == pytest.approx(measured, abs=1e-3)
    assert -0.1 < config.roi_op.offset < 0.15  # a residual network's cells look half a cell to the upper left
    for head in (model.box_head, model.mask_head):
        assert head.pooler.operator.offset == config.roi_op.offset


def test_a_resumed_run_keeps_its_number() -> None:
    config = configs.compose_config("train", [*ONE_MAP, "roi_op.offset=measured"])
    stored = configs.plain(configs.compose_config("train", [*ONE_MAP, "roi_op.offset=0.25"]), resolve=False)
    pin_offset(config, stored)
    assert config.roi_op.offset == 0.25


def test_one_heads_operator_alone() -> None:
    given = ["mask_roi_op={_target_: maskrcnn_ops.RoIOp, offset: measured}"]
    config = configs.compose_config("train", [*ONE_MAP, *given])
    pin_offset(config, None)
    assert config.roi_op.offset == 0.5
    assert config.mask_roi_op.offset != 0.5


def test_heads_that_read_several_maps_are_refused() -> None:
    config = configs.compose_config("train", ["roi_op.offset=measured"])
    with pytest.raises(UserError, match="FPN"):
        pin_offset(config, None)


def test_other_words_are_refused() -> None:
    with pytest.raises(UserError, match=r"offset=.guessed. is not a number"):
        configs.compose_config("train", [*ONE_MAP, "roi_op.offset=guessed"])
