"""Commands that need no network do not import torch, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = [
    "maskrcnn",
    "maskrcnn.cli.check_data",
    "maskrcnn.cli.prepare_data",
    "maskrcnn.cli.compare",
    "maskrcnn.evaluation.metrics",
]


@pytest.mark.parametrize("module", MODULES)
def test_it_is_imported_without_torch_and_matplotlib(module: str) -> None:
    slow = "{'torch', 'torchvision', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def _imported(*arguments: str) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """The modules that ``maskrcnn <arguments>`` imports, and how it ended."""
    line = [sys.executable, "-X", "importtime", "-m", "maskrcnn.cli", *arguments]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    return {row.rpartition("|")[2].strip() for row in done.stderr.splitlines() if "|" in row}, done


@pytest.mark.parametrize("command", ["train", "eval", "check-data", "predict"])
def test_help_imports_no_torch(command: str) -> None:
    imported, done = _imported(command, "--help")
    assert f"Usage: maskrcnn {command}" in done.stdout
    assert "maskrcnn.cli.entry" in imported
    assert "torch" not in imported


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "epochs=3"], "epochs"),
        (["train", "model=r50_fpn", "model.rpn.nsm_iou=0.5"], "model.rpn.nms_iou"),
        (["train", "schedule.stps=3"], "schedule.steps"),
        (["train", "model=r51_fpn"], "r50_fpn"),
        (["eval", "predictions=P.json", "annotations=A.json", "evaluation.max_det=3"], "evaluation.max_dets"),
        (["eval", "predictions=P.json", "annotations=A.json", "data=voc"], "data"),
        (["browse", "epochs=3"], "epochs"),
        (["benchmark", "suite=nosuch"], "infer"),
        (["predict", "checkpont=best.pt"], "checkpoint="),
        (["predict", "checkpoint=best.pt", "input=nowhere/*.jpg"], "nowhere"),
        (["export", "checkpoint=best.pt", "format=gguf"], "onnx"),
        (["propose", "devise=cpu"], "checkpoint="),
        (["replay", "stepp=1"], "step"),
        (["ablate", "tabel=strides"], "table"),
        (["ablate", "table=stride"], "strides"),
        (["ablate", "schedule.stpes=3"], "schedule.steps"),
        (["train", "roi_op=poool"], "pool"),
        (["train", "roi_op.plus_on=true"], "roi_op.plus_one"),
        (["explain", "WRONGKEY=1"], "plus_one"),
        (["explain", "operators=[alin]"], "align"),
        (["check-data", "annotation=A.json"], "annotations="),
    ],
)
def test_wrong_keys_are_refused_without_torch(arguments: list[str], named: str) -> None:
    imported, done = _imported(*arguments)
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
    assert {"torch", "torchvision"}.isdisjoint(imported)


def test_predictions_are_scored_without_torch(tmp_path: Path) -> None:
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{**box, "id": 1, "area": 100, "iscrowd": 0}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps([{**box, "score": 0.5}]))
    files = [f"predictions={tmp_path}/found.json", f"annotations={tmp_path}/truth.json"]
    imported, done = _imported("eval", *files, f"run_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["bbox"]["AP"] == pytest.approx(100)
    assert {"torch", "torchvision"}.isdisjoint(imported)
