"""tools/train.py: what a run leaves behind, resuming, starting from weights, the variants by config alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskrcnn.commands import train
from maskrcnn.engine import checkpoint
from maskrcnn.errors import UserError


def test_a_run_leaves_everything_behind(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.json",
        "predictions.json",
        "predictions.png",
        "last.pt",
        "best.pt",
    }
    content = torch.load(run / "last.pt", weights_only=True)
    assert content["step"] == 6
    assert content["config"]["schedule"]["steps"] == 6
    assert [c["name"] for c in content["config"]["categories"]] == ["circle", "square", "triangle", "star"]
    assert all(isinstance(value, torch.Tensor) for value in content["model"].values())
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm"}
    assert set(metrics["segm"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}


def test_tensorboard_holds_losses_rate_ap_and_pictures(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    assert {"loss/mask", "loss/total", "schedule/lr", "segm/AP", "speed/images_per_second"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("loss/total")] == [2, 4, 6]
    assert events.Tags()["images"]


def annotations_of(tiny: Sequence[str]) -> Path:
    root = Path(tiny[0].removeprefix("data.root="))
    return next(
        p for p in root.glob("*/val/annotations.json") if len(json.loads(p.read_text())["categories"]) == 4
    )


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_metrics_equal_pycocotools_called_on_its_own(run: Path, tiny: Sequence[str], kind: str) -> None:
    predictions = json.loads((run / "predictions.json").read_text())
    assert predictions
    if kind == "segm":
        predictions = [{k: v for k, v in p.items() if k != "bbox"} for p in predictions]
    truth = COCO(str(annotations_of(tiny)))
    scored = COCOeval(truth, truth.loadRes(predictions), kind)
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    metrics = json.loads((run / "metrics.json").read_text())[kind]
    for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), scored.stats[:6], strict=True):
        assert metrics[name] == (None if value == -1 else value * 100)


def test_an_interrupted_run_resumes_to_the_same_bits(
    run: Path, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after step 4 of 6 by an exception, started again: the weights are those of the run that never stopped."""
    arguments = [*tiny, f"run_dir={tmp_path}"]
    save = checkpoint.save

    def save_then_fall(path: Path, content: dict[str, object], former: Path | None = None) -> None:
        save(path, content, former)
        if content["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_then_fall)
    with pytest.raises(KeyboardInterrupt):
        train.main(arguments)
    monkeypatch.undo()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4
    train.main(arguments)
    whole, resumed = (torch.load(d / "last.pt", weights_only=True)["model"] for d in (run, tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_not_trained_again(
    run: Path, tiny: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "last.pt").stat().st_mtime_ns
    train.main([*tiny, f"run_dir={run}"])
    assert (run / "last.pt").stat().st_mtime_ns == before
    assert "resuming from step 6 of 6" in capsys.readouterr().out


def test_a_run_with_other_settings_is_not_resumed(run: Path, tiny: Sequence[str]) -> None:
    with pytest.raises(UserError, match=r"schedule.lr: 0.001 before, 0.01 now"):
        train.main([*tiny, f"run_dir={run}", "schedule.lr=0.01"])


def test_fine_tuning_on_other_classes_needs_leave_and_says_what_was_skipped(
    run: Path, tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*tiny, "data.source.num_classes=3", "schedule.steps=1", f"init={run / 'last.pt'}"]
    with pytest.raises(
        UserError,
        match=r"(?s)box_head.logits.weight: \[5, 32\] in the file, \[4, 32\] here.*init.reset_heads=true",
    ):
        train.main([*arguments, f"run_dir={tmp_path / 'a'}"])
    train.main([*arguments, "init.reset_heads=true", f"run_dir={tmp_path / 'b'}"])
    assert "box_head.logits.weight: [5, 32] in the file" in capsys.readouterr().out


def test_without_a_mask_head_there_are_boxes_alone(tiny: Sequence[str], tmp_path: Path) -> None:
    arguments = [a for a in tiny if not a.startswith("model.mask_head")]
    train.main([*arguments, "model.mask_head=null", "schedule.steps=1", f"run_dir={tmp_path}"])
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == {"bbox"}
    assert "segmentation" not in json.loads((tmp_path / "predictions.json").read_text())[0]


def test_fast_rcnn_learns_from_given_proposals(tiny: Sequence[str], tmp_path: Path) -> None:
    arguments = [a for a in tiny if not a.startswith("model.mask_head")]
    annotations = annotations_of(tiny)
    boxes = [
        {"image_id": a["image_id"], "bbox": a["bbox"], "score": 1.0}
        for a in json.loads(annotations.read_text())["annotations"]
    ]
    (tmp_path / "proposals.json").write_text(json.dumps(boxes))
    given = [f"proposals.{split}={tmp_path / 'proposals.json'}" for split in ("train", "val")]
    fast = [*arguments, "model.mask_head=null", "model.rpn=null", "schedule.steps=1"]
    train.main([*fast, *given, f"run_dir={tmp_path / 'run'}"])
    found = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert {r["image_id"] for r in found} == {b["image_id"] for b in boxes}
    with pytest.raises(UserError, match=r"needs proposals.train=FILE"):
        train.main([*fast, f"run_dir={tmp_path / 'none'}"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["r18_c4", "r18_c4_fpnhead", "r18_c5"])
@pytest.mark.parametrize("roi_op", ["align", "pool", "warp"])
def test_every_operator_trains_at_both_strides_by_config_alone(
    tiny: Sequence[str], tmp_path: Path, model: str, roi_op: str
) -> None:
    arguments = [a for a in tiny if not a.startswith("model.")]
    train.main([*arguments, f"model={model}", f"roi_op={roi_op}", "schedule.steps=2", f"run_dir={tmp_path}"])
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 2
