"""The installed package: what the wheel holds, and that it works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.project import write_project

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "data.root=drawn",
    "data.source.num_train=8",
    "data.source.num_val=4",
    "data.source.image_size=96",
    "data.num_workers=0",
    "schedule.steps=2",
    "schedule.batch_size=2",
    "threads=1",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of this checkout, built without a compiler."""
    folder = tmp_path_factory.mktemp("package")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout, so it is not known which files belong to the package")
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(("maskrcnn/", "ops/", "configs/")) or "/" not in name:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "source" / name)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(folder)]
    environment = {**os.environ, "MASKRCNN_OPS_BUILD": "0"}
    subprocess.run(command, cwd=folder / "source", env=environment, check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def maskrcnn(site: Path, folder: Path, arguments: Sequence[str]) -> str:
    """What the installed command prints when it is called in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-m", "maskrcnn.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_configs_and_the_command(site: Path) -> None:
    expected = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    installed = site / "maskrcnn" / "configs"
    assert {path.relative_to(installed) for path in installed.rglob("*.yaml")} == expected
    (information,) = site.glob("*.dist-info")
    assert {path.name for path in site.iterdir()} == {"maskrcnn", "maskrcnn_ops", information.name}
    assert "maskrcnn = maskrcnn.cli.entry:main" in (information / "entry_points.txt").read_text()


@pytest.mark.slow
def test_the_installed_package_trains_and_evaluates_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    assert f"in {site / 'maskrcnn'}" in maskrcnn(site, tmp_path, ["doctor"])
    maskrcnn(site, tmp_path, ["train", "run_dir=first", *SHORT])
    maskrcnn(site, tmp_path, ["eval", "checkpoint=first/last.pt", "run_dir=scored", "threads=1"])
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "scored")]
    assert metrics[0]["segm"] == metrics[1]["segm"]


@pytest.mark.slow
def test_a_project_runs_a_table_of_its_own_operator_and_backbone(site: Path, tmp_path: Path) -> None:
    write_project(tmp_path)
    maskrcnn(site, tmp_path, ["ablate", "table=mine", "jobs=1", *SHORT])
    report = (tmp_path / "results" / "mine-shapes" / "report.md").read_text()
    assert "my operator and my backbone" in report
    assert "centre" in report
