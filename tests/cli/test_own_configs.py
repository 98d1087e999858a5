"""A folder `configs/` of the working directory is searched before the package's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.cli import ablate
from maskrcnn.config import compose as configs
from maskrcnn.config import files
from maskrcnn.config.build import build_model
from maskrcnn.errors import UserError
from tests.cli.project import write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_own_operator_is_an_option(project: Path) -> None:
    assert configs.compose_config("train", ["roi_op=centre"]).roi_op._target_ == "my_parts.CentrePixel"
    config = configs.compose_config("train", ["mask_roi_op=centre", "roi_op=pool"])
    assert config.mask_roi_op._target_ == "my_parts.CentrePixel"
    assert config.box_roi_op._target_ == "maskrcnn_ops.RoIOp"


def test_the_own_file_of_a_name_comes_first(project: Path) -> None:
    assert configs.compose_config("train", ["roi_op=align"]).roi_op.sampling_ratio == 1
    (project / "configs" / "roi_op" / "align.yaml").unlink()
    assert configs.compose_config("train", ["roi_op=align"]).roi_op.sampling_ratio == 2


def test_an_own_model_builds_on_parts_of_the_package(project: Path) -> None:
    config = configs.compose_config("train", ["model=patches", "roi_op=centre", "num_classes=3"])
    model = build_model(config)
    assert type(model.backbone).__name__ == "Patches"
    assert type(model.mask_head.pooler.operator).__name__ == "CentrePixel"


def test_an_own_table_is_read(project: Path) -> None:
    planned = ablate.plan(["table=mine", "out=out"])
    assert [cell.id for cell in planned.missing] == ["pool-seed0", "centre-seed0"]
    assert ablate.plan(["table=strides", "out=out"]).table.name == "strides"  # the package's


def test_a_wrong_option_is_answered_with_the_own_one(project: Path) -> None:
    with pytest.raises(UserError, match=r"roi_op=center: no such option; did you mean centre\?"):
        configs.compose_config("train", ["roi_op=center"])


def test_a_folder_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.CONFIG_DIR.parent)
    assert files.folders() == [files.CONFIG_DIR]
