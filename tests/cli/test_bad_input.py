"""Bad input ends with status 2 and one message that names the key, value or path; never with a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from maskrcnn.cli import eval as eval_tool
from maskrcnn.cli import train
from maskrcnn.cli.entry import _status, run_tool
from maskrcnn.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def coco_json(tmp_path: Path, **changes: object) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
        **changes,
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    return path


def annotation(**changes: object) -> dict[str, object]:
    return {
        "id": 5,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 1, 4, 4],
        "area": 16,
        "iscrowd": 0,
        **changes,
    }


def ended(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        run_tool("train")
    return exit_.value.code, capsys.readouterr().err


def custom(json_path: Path, images: Path) -> list[str]:
    return [
        "data=custom",
        f"data.train_annotations={json_path}",
        f"data.train_images={images}",
        f"data.val_annotations={json_path}",
        f"data.val_images={images}",
        "data.num_workers=0",
        "threads=1",
        "schedule.steps=1",
        "schedule.batch_size=1",
        f"run_dir={images / 'run'}",
        "data.short_side=64",
        "model.mask_head=null",
    ]


CASES = {
    "missing json": (None, "a.json"),
    "broken json": ("{", "a.json"),
    "unknown image": ({"annotations": [annotation(image_id=9)]}, "9"),
    "unknown category": ({"annotations": [annotation(category_id=77)]}, "77"),
    "missing image": ({}, "1.png"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_data(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = CASES[case]
    if case != "missing image":
        cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    if isinstance(content, str):
        (tmp_path / "a.json").write_text(content)
    elif content is not None:
        coco_json(tmp_path, **content)  # type: ignore[arg-type]
    status, message = ended(custom(tmp_path / "a.json", tmp_path), monkeypatch, capsys)
    assert status == 2
    assert words in message
    assert message.startswith("error: ")
    assert "Traceback" not in message


def test_a_corrupt_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n but no more")
    status, message = ended(
        custom(coco_json(tmp_path, annotations=[annotation()]), tmp_path), monkeypatch, capsys
    )
    assert status == 2
    assert "1.png" in message
    assert "data.on_corrupt_image=skip" in message


def test_boxes_cannot_train_a_mask_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    arguments = custom(coco_json(tmp_path, annotations=[annotation()]), tmp_path)
    status, message = ended([a for a in arguments if "mask_head" not in a], monkeypatch, capsys)
    assert status == 2
    assert "no masks (segmentation); set model.mask_head=null" in message


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ([annotation(iscrowd=1, segmentation=[[1, 1, 5, 1, 5, 5]])], "all 1 are marked iscrowd=1"),
        ([], "hold no object to learn from"),
    ],
)
def test_nothing_to_learn_is_said(tmp_path: Path, annotations: list[object], words: str) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    path = coco_json(tmp_path, annotations=annotations)
    with pytest.raises(UserError, match=words):
        train.main([*custom(path, tmp_path), f"run_dir={tmp_path / 'run'}"])


def test_boxes_of_no_size_are_dropped_counted_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    flat = [annotation(), annotation(id=6, bbox=[1, 1, 0, 4]), annotation(id=7, bbox=[1, 1, 4, -2])]
    train.main([*custom(coco_json(tmp_path, annotations=flat), tmp_path)])
    out = capsys.readouterr().out
    assert "2 " in next(line for line in out.splitlines() if "size" in line)


def test_a_learning_rate_that_explodes_is_named(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = [
        *tiny,
        f"run_dir={tmp_path}",
        "schedule.optimizer=sgd",
        "schedule.lr=1e30",
        "schedule.clip_norm=null",
        "schedule.warmup_steps=0",
    ]
    status, message = ended(wild, monkeypatch, capsys)
    assert status == 2
    assert "the loss is not finite at step" in message
    assert "schedule.lr" in message


def test_threads_beyond_reason_are_refused() -> None:
    with pytest.raises(UserError, match=r"threads=100000: this machine has \d+ cores"):
        train.main(["threads=100000"])


@pytest.mark.parametrize(
    "tool", ["train", *(pytest.param(tool, marks=pytest.mark.slow) for tool in ("eval", "predict"))]
)
def test_as_a_program(tool: str) -> None:
    wrong = subprocess.run(
        [sys.executable, f"tools/{tool}.py", "thredas=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert "error: " in wrong.stderr
    assert "Traceback" not in wrong.stderr
    helped = subprocess.run(
        [sys.executable, f"tools/{tool}.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert helped.returncode == 0
    assert "Examples" in helped.stdout


@pytest.mark.parametrize(
    ("tool", "words"), [("train", "accumulate=4"), ("predict", "batch_size=1, or a smaller max")]
)
def test_a_full_gpu_is_answered_by_what_the_tool_has(
    tool: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: Sequence[str]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    assert _status(full, [], tool) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "Tried to allocate 2.00 GiB)" in printed
    assert ("accumulate" in printed) == (tool == "train")
    with pytest.raises(torch.OutOfMemoryError):
        _status(full, ["debug=true"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            "evaluation.area_ranges={tiny:[5,1]}",
            r"evaluation\.area_ranges\.tiny=\[5, 1\]: expected \[least, most\]",
        ),
        ("evaluation.backend=hotcoco", "needs the package hotcoco"),
        ("evaluation.backend=torch", "evaluation.backend=torch: there are hotcoco and pycocotools"),
    ],
)
def test_what_the_first_evaluation_would_refuse_is_refused_before_training(
    tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(UserError, match=words):
        train.main([*tiny, argument, f"run_dir={tmp_path}"])
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_without_a_validation_set_it_trains_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    path = coco_json(tmp_path, annotations=[annotation()])
    arguments = [a for a in custom(path, tmp_path) if not a.startswith("data.val_")]
    train.main([*arguments, "evaluation.every=1"])
    assert "nothing is validated" in capsys.readouterr().out
    written = {p.name for p in (tmp_path / "run").iterdir()}
    assert "last.pt" in written
    assert not {"best.pt", "metrics.json", "predictions.json"} & written
    train.main([*arguments, "schedule.steps=2"])
    assert "resuming from step 1 of 2" in capsys.readouterr().out
    with pytest.raises(UserError, match="there is no val set to evaluate"):
        eval_tool.main([f"checkpoint={tmp_path / 'run' / 'last.pt'}", f"run_dir={tmp_path / 'e'}"])
