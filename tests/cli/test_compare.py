"""maskrcnn compare: two runs written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from maskrcnn.cli import compare
from maskrcnn.errors import UserError


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    folders = []
    for name, ap, lr in (("align", 30.25, 0.01), ("pool", 26.0, 0.02)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.json").write_text(
            json.dumps({"segm": {"AP": ap, "APl": None}, "bbox": {"AP": 40.0}})
        )
        (folder / "config.yaml").write_text(
            f"seed: 0\nrun_dir: {folder}\nschedule: {{lr: {lr}, steps: 5}}\nroi_op: {{preset: {name}}}\n"
        )
        folders.append(str(folder))
    return folders


def cells(text: str, key: str) -> list[str]:
    line = next(line for line in text.splitlines() if f" {key} " in line)
    return [part.strip() for part in line.replace("┃", "│").split("│") if part.strip()]


def test_metrics_and_settings_that_differ_are_printed(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.main([*runs, f"plot={tmp_path / 'both.png'}"])
    text = capsys.readouterr().out
    assert cells(text, "segm/AP") == ["segm/AP", "30.2", "26.0", "-4.2"]
    assert cells(text, "segm/APl") == ["segm/APl", "–", "–", "–"]
    assert cells(text, "bbox/AP") == ["bbox/AP", "40.0", "40.0", "+0.0"]
    assert cells(text, "schedule.lr") == ["schedule.lr", "0.01", "0.02"]
    assert cells(text, "roi_op.preset") == ["roi_op.preset", '"align"', '"pool"']
    assert "schedule.steps" not in text
    assert "run_dir" not in text
    assert cv2.imread(str(tmp_path / "both.png")).std() > 0


@pytest.mark.parametrize("name", ["lr=0.01", "[bold]x", "-dash", "it's ${x}, 數"])
def test_any_folder_is_a_run(
    runs: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path(runs[0]).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    compare.main([name, "pool", f"plot={tmp_path / name}/both.png"])
    assert name in capsys.readouterr().out
    assert (tmp_path / name / "both.png").exists()


def test_neither_torch_nor_hydra_is_imported(runs: list[str]) -> None:
    code = (
        "import sys; from maskrcnn.cli import compare; compare.main(sys.argv[1:]);"
        "assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *runs, "plot=null"], check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "found 0"),
        (["a"], "found 1"),
        (["plot=x.pdf", "a", "b"], r"x\.pdf"),
        (["steps=3", "a", "b"], "steps=3"),
        (["nowhere", "b"], r"nowhere/metrics\.json"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare.main(arguments)
