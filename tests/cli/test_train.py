"""tools/train.py: what a run leaves behind, resuming, starting from weights, the variants by config alone."""

from __future__ import annotations

import gc
import json
import math
import shutil
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from maskrcnn.cli import train
from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config.build import evaluator_of
from maskrcnn.config.build import trainer as trainer_of
from maskrcnn.config.data import open_data
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.training import checkpoint
from maskrcnn.training import run as run_module
from maskrcnn.training.checks import check_together
from maskrcnn.training.distributed import World
from maskrcnn.training.interruption import Interruption
from maskrcnn.training.recipe import check_same_run
from maskrcnn.training.run import Run
from maskrcnn.training.run_dir import RunDir


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
    assert events.Tags()["images"] == ["ground_truth-predictions-worst_by_IoU"]


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
    with pytest.raises(UserError, match=r"schedule.weight_decay: 0.05 before, 0.01 now"):
        train.main([*tiny, f"run_dir={run}", "schedule.weight_decay=0.01"])
    with pytest.raises(UserError, match=r"schedule.lr_batch_size: 8 before, 4 now"):
        train.main([*tiny, f"run_dir={run}", "schedule.lr_batch_size=4"])


@pytest.mark.slow
def test_what_a_failure_advises_may_be_changed_by_a_resumed_run(
    run: Path, tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = shutil.copytree(run, tmp_path / "run")
    changes = [
        ["schedule.lr: 0.001 -> 0.02", "schedule.steps: 6 -> 8", "precision: fp32 -> fp16"],
        ["schedule.clip_norm: 10.0 -> 1.0", "schedule.max_loss: 10000.0 -> 50.0", "precision: fp16 -> fp32"],
    ]
    arguments = [*tiny, f"run_dir={directory}", "schedule.steps=8", "schedule.lr=0.02"]
    for step, changed in zip((7, 8), changes, strict=True):
        more = [f"{key}={line.split(' -> ')[1]}" for line in changed for key in [line.split(":")[0]]]
        arguments += [*more, "checkpoint.every=1"]
        with pytest.MonkeyPatch.context() as patch:
            if step == 7:
                patch.setattr(Run, "_after_step", stopped_after_saving)
            train.main(arguments)
        printed = capsys.readouterr().out
        assert [line in printed for line in changed] == [True] * 3
        content = torch.load(directory / "last.pt", weights_only=True)
        assert (content["step"], content["config"]["schedule"]["lr"]) == (step, 0.02)
        assert content["config"]["precision"] == {7: "fp16", 8: "fp32"}[step]
        rate = 0.02 * 2 / 8 * 0.5 * (1 + math.cos(math.pi * (step - 1) / 8))
        assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(rate)


def stopped_after_saving(self: Run, step: int, report: object) -> bool:
    self.step = step
    self.save()
    return True


@pytest.mark.slow
def test_data_may_move_but_not_change(
    run: Path, tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(tiny[0].removeprefix("data.root="))
    directory, moved = shutil.copytree(run, tmp_path / "run"), shutil.copytree(root, tmp_path / "moved")
    arguments = [*tiny, f"data.root={moved}", f"run_dir={directory}"]
    train.main(arguments)
    printed = capsys.readouterr().out.replace("\n", "")
    assert "resuming from step 6 of 6" in printed
    assert f"data.root: {root} -> {moved}".replace(" ", "") in printed.replace(" ", "")
    place = moved / annotations_of(tiny).relative_to(root).parents[1] / "train" / "annotations.json"
    content = json.loads(place.read_text())
    images, objects = len(content["images"]), len(content["annotations"])
    del content["annotations"][3]
    place.write_text(json.dumps(content))
    words = (
        f"other train data: {images} images with {objects} objects before, "
        f"{images} images with {objects - 1} objects now"
    )
    with pytest.raises(UserError, match=words):
        train.main(arguments)
    older = checkpoint.load(directory / "last.pt")
    del older["data"]
    checkpoint.save(directory / "last.pt", older)
    train.main(arguments)


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [("proposals.train", "a.npz", "ground_truth"), ("init.weights", "a.pt", "imagenet")],
)
def test_a_place_is_not_exchanged_for_what_is_none(key: str, before: str, now: str) -> None:
    config = configs.compose_config("train", [])
    group, name = key.split(".")
    with pytest.raises(UserError, match=f"{key}: '{before}' before, '{now}' now"):
        check_same_run(
            configs.plain(OmegaConf.merge(config, {group: {name: now}}), resolve=False),
            configs.plain(OmegaConf.merge(config, {group: {name: before}}), resolve=False),
            Path(),
        )
    moved = check_same_run(
        configs.plain(OmegaConf.merge(config, {group: {name: "b"}}), resolve=False),
        configs.plain(OmegaConf.merge(config, {group: {name: before}}), resolve=False),
        Path(),
    )
    assert moved == [f"{key}: {before} -> b"]


def test_a_resumed_run_does_not_keep_what_it_was_read_from(
    run: Path, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    newest, alive, seen = RunDir.newest, [], []

    def remembered(files: RunDir) -> dict[str, Any] | None:
        content = newest(files)
        assert content is not None
        alive.extend(weakref.ref(tensor) for tensor in content["model"].values())
        return content

    def look(*arguments: object) -> None:
        gc.collect()
        seen.append(sum(reference() is not None for reference in alive))

    monkeypatch.setattr(RunDir, "newest", remembered)
    monkeypatch.setattr(run_module, "train", look)
    train.main([*tiny, "schedule.steps=7", f"run_dir={tmp_path}"])
    assert len(alive) > 10
    assert seen == [0]


def a_run(tiny: Sequence[str], tmp_path: Path, world: World, *changes: str) -> Run:
    """What the process of this rank begins with."""
    config = configs.compose_config("train", [*tiny, "schedule.batch_size=2", *changes])
    torch.manual_seed(config.seed)
    trainer = trainer_of(config, torch.device("cpu"), World())
    return trainer._run(RunDir(tmp_path), world, Interruption("stopping"))


class Seen(World):
    """A process of several that nobody else is joined with."""

    def share(self, make: Callable[[], Any]) -> Any:
        return make()

    def share_weights(self, model: nn.Module) -> None:
        pass


@pytest.mark.slow
def test_processes_begin_with_the_same_weights_and_draw_otherwise(
    tiny: Sequence[str], tmp_path: Path
) -> None:
    drawn, weights = [], []
    for rank in (0, 1, 2):
        run = a_run(tiny, tmp_path, Seen(rank=rank))
        weights.append(run.learner.model.state_dict())
        drawn.append(torch.rand(4).tolist())
    assert all(torch.equal(weights[0][name], w[name]) for w in weights for name in weights[0])
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_fewer_steps_than_are_done_are_refused(run: Path, tiny: Sequence[str]) -> None:
    with pytest.raises(UserError, match=r"holds step 6, beyond schedule\.steps=5: give schedule\.steps=6"):
        train.main([*tiny, f"run_dir={run}", "schedule.steps=5"])


def test_patience_without_evaluations_is_refused(tiny: Sequence[str]) -> None:
    with pytest.raises(UserError, match=r"evaluation\.patience=3 .*set evaluation\.every"):
        train.main([*tiny, "evaluation.patience=3"])


@pytest.mark.parametrize(
    ("device", "changes", "words"),
    [
        ("cpu", ["compile=true"], "needs a GPU, but the run is on cpu"),
        ("cuda", [], "captures what compile=true compiles"),
        ("cuda", ["compile=true", "accumulate=2"], "accumulate=2: .*set accumulate=1"),
    ],
)
def test_graphs_where_they_cannot_be_are_refused(device: str, changes: list[str], words: str) -> None:
    given = {"compile": "compile=true" in changes, "accumulate": 2 if "accumulate=2" in changes else 1}
    with pytest.raises(UserError, match=words):
        check_together(Evaluation(), torch.device(device), cuda_graphs=True, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("answers", "whole"), [(6, True), (5, False)])
def test_a_wish_to_stop_after_the_last_image_keeps_the_evaluation(
    run: Path, answers: int, whole: bool
) -> None:
    """Of six images; stopping is asked for after so many answers of no."""
    config, model, _ = assembly.load_trained(str(run / "last.pt"), ["data.num_workers=0"])
    evaluator = evaluator_of(config, open_data(config, "val"), model, torch.device("cpu"))
    asked = iter([False] * answers)
    with nullcontext() if whole else pytest.raises(Interrupted):
        assert len(evaluator.detect(lambda: next(asked, True))) == 6


@pytest.mark.slow
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


@pytest.mark.slow
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
