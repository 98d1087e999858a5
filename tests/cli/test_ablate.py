"""tools/ablate.py, propose.py and explain.py: a table of two runs of three steps, read back."""

from __future__ import annotations

import base64
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread, Timer

import numpy as np
import pytest
import torch

from maskrcnn.ablation import explain_plots as draw
from maskrcnn.ablation.explain import Floats
from maskrcnn.ablation.grid import read_table
from maskrcnn.ablation.run import COMMAND, Runner
from maskrcnn.cli import ablate, explain, explain_run, propose, train
from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config.data import open_data
from maskrcnn.data.images import read_image
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.prediction.predictor import Predictor
from maskrcnn.training.run_dir import RunDir

TABLE = """
title: two runs
base: [experiment=ablation_shapes]
proposals: [experiment=ablation_shapes_rpn]
start_from_proposals: true
axes:
  stride: {"32": [model=r18_c5]}
  roi_op: {align: [roi_op=align], pool: [roi_op=pool]}
compare: {axis: roi_op, of: align}
cross: roi_op
pictures: true
paper:
  - {where: {stride: "32", roi_op: align}, segm_AP: 30.9}
"""
SMALL = [
    "data.source.num_train=8",
    "data.source.num_val=4",
    "data.source.image_size=96",
    "data.num_workers=0",
    "schedule.steps=3",
    "schedule.batch_size=2",
    "schedule.warmup_steps=1",
    "log.every=1",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*SMALL, f"data.root={tmp_path_factory.mktemp('shapes')}"]


@pytest.fixture(scope="module")
def done(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a finished table."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "two-shapes.yaml").write_text(TABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate, "TABLES", folder)
        ablate.main(["table=two", "threads=1", f"out={folder / 'out'}", *small])
    return folder


@pytest.mark.slow
def test_a_table_of_two_runs_is_trained_and_reported(done: Path) -> None:
    out = done / "out"
    rows = list(csv.DictReader((out / "runs.csv").open()))
    assert [(r["roi_op"], r["stride"], r["seed"]) for r in rows] == [
        ("align", "32", "0"),
        ("pool", "32", "0"),
    ]
    for row in rows:
        metrics = json.loads((out / "runs" / f"32-{row['roi_op']}-seed0" / "metrics.json").read_text())
        assert float(row["segm_AP50"]) == pytest.approx(metrics["segm"]["AP50"], abs=1e-3)
        assert float(row["seconds"]) > 0
    text = (out / "report.md").read_text()
    assert "Trained with one operator, tested with another" in text
    assert "30.9" in text
    assert "data:image/webp" in (out / "report.html").read_text()  # the examples
    record = json.loads((out / "records" / "32-pool-seed0.json").read_text())
    assert [step for step, _ in record["curve"]] == [1, 2, 3]
    assert record["manifest"]["config"]["seed"] == 0
    assert "data.root" not in " ".join(record["overrides"])


@pytest.mark.slow
def test_started_again_it_does_only_what_is_missing(
    done: Path, small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablate, "TABLES", done)
    arguments = ["table=two", "threads=1", f"out={done / 'out'}", *small]
    kept = (done / "out" / "records" / "32-align-seed0.json").read_bytes()
    (done / "out" / "records" / "32-pool-seed0.json").unlink()
    trained = (done / "out" / "runs" / "32-pool-seed0" / "last.pt").stat().st_mtime_ns
    ablate.main(arguments)
    printed = capsys.readouterr().out
    assert "2 runs, 1 finished" in printed
    assert "32-pool-seed0 begins" in printed
    assert "32-align-seed0 begins" not in printed
    assert (done / "out" / "records" / "32-align-seed0.json").read_bytes() == kept
    # The run itself was finished: it is recorded again, not trained again.
    assert (done / "out" / "runs" / "32-pool-seed0" / "last.pt").stat().st_mtime_ns == trained
    with pytest.raises(UserError, match="made with other settings"):
        ablate.main([*arguments, "schedule.lr=1"])


@pytest.mark.slow
def test_a_run_that_fails_twice_is_listed_with_its_log(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = TABLE.replace("pool: [roi_op=pool]", "pool: [roi_op=pool, proposals.val=missing.json]")
    bad = bad.replace("cross: roi_op", "")
    (tmp_path / "bad-shapes.yaml").write_text(
        bad.replace("proposals: [experiment=ablation_shapes_rpn]", "")
        .replace("start_from_proposals: true", "")
        .replace("[experiment=ablation_shapes]", "[experiment=ablation_masks_shapes]")
    )
    monkeypatch.setattr(ablate, "TABLES", tmp_path)
    with pytest.raises(UserError, match=r"(?s)1 runs failed twice.*32-pool-seed0\.log"):
        ablate.main(["table=bad", "threads=1", f"out={tmp_path / 'out'}", "model.rpn=null", *small])
    assert "32-pool-seed0 failed and is tried again" in capsys.readouterr().out
    assert (tmp_path / "out" / "records" / "32-align-seed0.json").exists()
    assert (tmp_path / "out" / "report.html").exists()


GIVEN = """
title: two runs of given boxes
base: [experiment=ablation_masks_shapes, model=r18_c5, model.box_head=null, model.mask_head.loss=class_agnostic]
proposals: ground_truth
axes:
  roi_op: {align: [roi_op=align], pool: [roi_op=pool]}
"""


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_sigterm_reaches_the_runs_and_nothing_else_begins(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given-shapes.yaml").write_text(GIVEN)
    monkeypatch.setattr(ablate, "TABLES", tmp_path)
    out = tmp_path / "out"
    first = RunDir(out / "runs" / "align-seed0")

    def interrupt() -> None:
        log = out / "runs" / "align-seed0.log"
        wait_until(lambda: log.exists() and "step 5/" in log.read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="2 of 2 runs are left"):
        ablate.main(["table=given", "jobs=1", "threads=1", f"out={out}", *small, "schedule.steps=100000"])
    thread.join()
    assert first.owner() is None
    assert (first.path / "last.pt").exists()
    assert not (out / "runs" / "pool-seed0").exists()
    assert "tried again" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_launcher_of_hydra_runs_each_as_a_job(small: list[str], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra package hydra-submitit-launcher is not installed")
    arguments = [
        "table=6",
        "launcher=submitit_local",
        "threads=1",
        f"out={tmp_path}",
        *small,
        "evaluation.max_dets=5",
    ]
    ablate.main([*arguments, "hydra.launcher.timeout_min=10"])
    assert {p.name for p in (tmp_path / "records").iterdir()} == {"align-seed0.json", "pool-seed0.json"}
    assert len(list(csv.DictReader((tmp_path / "runs.csv").open()))) == 2
    assert list((tmp_path / "jobs").rglob("*.pkl"))  # submitit's


@pytest.mark.slow
def test_where_all_runs_fail_all_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given-shapes.yaml").write_text(GIVEN)
    monkeypatch.setattr(ablate, "TABLES", tmp_path)
    monkeypatch.setattr(Runner, "run", lambda self, run: False)
    with pytest.raises(UserError, match=r"(?s)2 runs failed twice.*align-seed0\.log.*pool-seed0\.log"):
        ablate.main(["table=given", f"out={tmp_path / 'out'}"])


@pytest.mark.parametrize("number", ["3", "6"])
def test_a_table_may_be_a_number(number: str) -> None:
    assert (
        ablate.plan([f"table={number}", "data=shapes" if number == "6" else "data=coco"]).table.name == number
    )


def test_the_earlier_name_of_data_is_refused_with_the_right_one() -> None:
    with pytest.raises(UserError, match="data=nuclei"):
        ablate.main(["table=strides", "scale=nuclei", "report_only=true"])


def test_a_report_across_data_sets_takes_no_overrides(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"schedule\.steps=3"):
        ablate.main(["table=across", f"out={tmp_path}", "schedule.steps=3"])


@pytest.mark.slow
def test_a_run_that_outlived_its_ablation_is_waited_for(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given-shapes.yaml").write_text(GIVEN)
    monkeypatch.setattr(ablate, "TABLES", tmp_path)
    arguments = ["table=given", "jobs=1", "threads=1", f"out={tmp_path / 'out'}", *small]
    runner, first = (plan := ablate.plan(arguments)).runner, plan.missing[0]
    command = [sys.executable, *COMMAND, "train", *runner.overrides(first)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as orphan:
        files = RunDir(runner.folder(first.id))
        wait_until(lambda: files.owner() is not None)
        orphan.send_signal(signal.SIGSTOP)
        timer = Timer(3, orphan.send_signal, [signal.SIGCONT])
        timer.start()
        ablate.main(arguments)
        assert orphan.wait() == 0
    printed = capsys.readouterr().out
    assert f"align-seed0 is being trained already, by process {orphan.pid} on" in printed
    assert "tried again" not in printed
    assert sorted(path.stem for path in (tmp_path / "out" / "records").iterdir()) == [
        "align-seed0",
        "pool-seed0",
    ]


@pytest.mark.slow
def test_proposals_of_a_proposal_network_train_a_fast_rcnn(tiny: Sequence[str], tmp_path: Path) -> None:
    shared = [a for a in tiny if not a.startswith(("model.box_head", "model.mask_head", "model.sampler"))]
    train.main([*shared, "model=r18_rpn", f"run_dir={tmp_path / 'rpn'}"])
    metrics = json.loads((tmp_path / "rpn" / "metrics.json").read_text())
    assert set(metrics) == {"proposals"}
    assert set(metrics["proposals"]) == {"AR100", "AR50", "ARs", "ARm", "ARl"}
    propose.main([f"checkpoint={tmp_path / 'rpn' / 'last.pt'}", f"run_dir={tmp_path / 'p'}", "threads=1"])
    with np.load(tmp_path / "p" / "val.npz") as found:
        assert len(set(found["image_ids"].tolist())) == 6
        assert len(found["boxes"]) == len(found["scores"]) == found["offsets"][-1] > 0
    given = [f"proposals.{split}={tmp_path / 'p' / split}.npz" for split in ("train", "val")]
    train.main([*tiny, "model.rpn=null", *given, f"run_dir={tmp_path / 'fast'}"])
    assert not any(k.startswith("rpn") for k in torch.load(tmp_path / "fast" / "last.pt")["model"])


def test_the_best_proposals_of_an_image_are_used(tiny: Sequence[str], tmp_path: Path) -> None:
    scores = [0.2, 0.9, 0.4]
    results = [{"image_id": 1, "bbox": [i, 0, 5, 5], "score": score} for i, score in enumerate(scores)]
    (tmp_path / "p.json").write_text(json.dumps(results))
    given = [f"proposals.val={tmp_path / 'p.json'}", "proposals.most_val=2"]
    val = open_data(configs.compose_config("train", [*tiny, *given]), "val")
    assert val.proposals.of(1)[:, [0, 4]].tolist() == [[1.0, pytest.approx(0.9)], [2.0, pytest.approx(0.4)]]


@pytest.mark.slow
def test_masks_of_given_boxes_keep_boxes_and_classes(tiny: Sequence[str], tmp_path: Path) -> None:
    kept = [a for a in tiny if not a.startswith("model.box_head")]
    given = [
        "proposals.train=ground_truth",
        "proposals.val=ground_truth",
        "model.rpn=null",
        "model.box_head=null",
    ]
    train.main([*kept, *given, "model.mask_head.loss=class_agnostic", f"run_dir={tmp_path}"])
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    truth = open_data(configs.compose_config("train", tiny), "val").ground_truth()["annotations"]
    assert len(predictions) == len(truth)
    boxes = {(a["image_id"], a["category_id"], *a["bbox"]) for a in truth}
    assert {(p["image_id"], p["category_id"], *(round(v) for v in p["bbox"])) for p in predictions} == boxes
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == {"segm"}


OBJECTS_GIVEN = ["proposals.train=ground_truth", "proposals.val=ground_truth"]
NO_HEADS = ["model.box_head=null", "model.mask_head=null"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.box_head=null"], "set rpn=null"),
        ([*OBJECTS_GIVEN, *NO_HEADS, "model.sampler=null", "model.rpn=null"], "all null"),
        (["model.sampler=null"], "sampler=null is for an RPN without heads"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tiny: Sequence[str], arguments: list[str], words: str) -> None:
    kept = [a for a in tiny if not a.startswith(("model.box_head", "model.mask_head", "model.sampler"))]
    with pytest.raises(UserError, match=words):
        train.main([*kept, *arguments])


@pytest.mark.slow
def test_explain_draws_and_counts(tmp_path: Path) -> None:
    explain.main([f"run_dir={tmp_path}"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"overview.png", "bins.png", "shift.png", "explain.json", "weights.npz"}
    assert np.load(tmp_path / "weights.npz")["pool"].shape == (7, 7, 25, 25)
    numbers = json.loads((tmp_path / "explain.json").read_text())["operators"]
    assert numbers["pool"]["x"]["region"] == [0, 22]
    assert numbers["align"]["shift_pixels"] == [0, 0]
    assert numbers["align"]["largest_change_percent"] < numbers["pool"]["largest_change_percent"] / 2


@pytest.mark.slow
def test_explain_looks_at_trained_models_of_two_strides(
    run: Path, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both folders are named alike, and the finer model's curve lies over the same shifts as the coarser one's."""
    root = Path(next(a for a in tiny if a.startswith("data.root=")).removeprefix("data.root="))
    image = next(root.glob("*/val/images/*.png"))
    other = tmp_path / "other" / run.name
    tiny = [a for a in tiny if not a.startswith("model.pyramid")]
    train.main([*tiny, "model=r18_c4_fpnhead", "schedule.steps=2", f"run_dir={other}"])
    drawn = {}
    curves = draw.curves

    def kept(shifts: Floats, by_name: Mapping[str, Floats], stride: int, words: str, path: Path) -> None:
        drawn[path.name] = (shifts, by_name, stride)
        curves(shifts, by_name, stride, words, path)

    monkeypatch.setattr(draw, "curves", kept)
    both = [str(run / "last.pt"), str(other / "last.pt")]
    explain.main(
        [f"image={image}", "box=[8,8,60,60]", f"checkpoints=[{','.join(both)}]", f"run_dir={tmp_path}"]
    )
    for name in ("model_features.png", "model_masks.png"):
        assert (tmp_path / name).exists()
        shifts, by_name, stride = drawn[name]
        assert (shifts[0], shifts[-1], stride) == (0, 64, 32)  # of the pyramid's coarsest map
        assert list(by_name) == both
        assert all(len(values) == len(shifts) for values in by_name.values())
    by_fine = drawn["model_features.png"][1][both[1]]
    assert by_fine[0] == 0
    assert by_fine[4] > 1


def test_explain_writes_a_page_with_a_trained_models_features(
    run: Path, tiny: Sequence[str], tmp_path: Path
) -> None:
    """One channel at every stride of the model, for the image moved by quarters of a cell."""
    root = Path(next(a for a in tiny if a.startswith("data.root=")).removeprefix("data.root="))
    image, page = next(root.glob("*/val/images/*.png")), tmp_path / "pages" / "out.html"
    given = [f"image={image}", "box=[8,8,60,60]", f"checkpoints=[{run / 'last.pt'}]", "sampling_ratio=3"]
    explain.main([*given, f"page={page}", f"run_dir={tmp_path / 'unused'}"])
    assert not (tmp_path / "unused").exists()
    html = page.read_text()
    data = json.loads(html.split('id="data">')[1].split("</script>")[0].replace("<\\/", "</"))
    assert data["operators"]["warp"]["sampling_ratio"] == 3
    assert (data["start"]["box"], data["start"]["operators"]) == ([8, 8, 60, 60], ["align", "pool"])
    cpu, pixels = torch.device("cpu"), read_image(image)
    model = assembly.load_trained(str(run / "last.pt"))[1].eval()
    strides = [stride for stride in model.features(explain_run._moved(pixels, 0, cpu)) if stride <= 32]
    assert [m["stride"] for m in data["maps"]] == sorted(strides)
    for packed in data["maps"]:
        values = np.frombuffer(base64.b64decode(packed["data"]), "<f2")
        moved = explain_run._moved(pixels, packed["stride"] // 2, cpu)
        channels = model.features(moved)[packed["stride"]][0, :, : packed["height"], : packed["width"]]
        half = values.reshape(5, packed["height"], packed["width"])[2]
        assert any(np.allclose(half, channel, atol=2e-3, rtol=2e-3) for channel in channels.detach().numpy())


def test_explain_draws_a_detection_of_a_trained_model(run: Path, tiny: Sequence[str], tmp_path: Path) -> None:
    root = Path(next(a for a in tiny if a.startswith("data.root=")).removeprefix("data.root="))
    image = next(root.glob("*/val/images/*.png"))
    given = [f"image={image}", f"checkpoints=[{run / 'last.pt'}]", "detection=0", "operators=[align,pool]"]
    explain.main([*given, f"run_dir={tmp_path}"])
    assert {path.name for path in tmp_path.iterdir()} == {"detection.png", "explain.json"}
    (numbers,) = json.loads((tmp_path / "explain.json").read_text()).values()
    found = Predictor(run / "last.pt", device="cpu").predict([read_image(image)])[0]
    assert numbers["score"] == pytest.approx(float(found.scores[0]), abs=1e-4)
    assert list(numbers["iou_of_moved"]) == ["align", "pool"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detection=0"], "image=FILE and checkpoints"),
        (["page=out.html", "operators=[prroipool]"], "not prroipool"),
        (["page=out.html", "output_size=15"], "1 to 14"),
        (["box=[0,0,900,10]"], "inside the image"),
        (["box=[5,5,5,10]"], "x1 < x2"),
        (["operators=[allign]"], "align"),
        (["sampels=3"], "sampels: neither a key"),
        (["reduction=median"], "expected 'avg' or 'max', found 'median'"),
        (["stride=0"], "at least 1"),
        (["checkpoints=[a.pt]"], "image=FILE"),
    ],
)
def test_explain_refuses_in_words(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        explain.main([*arguments, f"run_dir={tmp_path}"])


def test_a_record_holds_where_a_file_lies_elsewhere_and_names_no_folder(tmp_path: Path) -> None:
    def runner(weights: str) -> Runner:
        table = read_table(ablate.TABLES, "augmentations", "facades")
        return Runner(table, tmp_path, ("data.root=/data", f"model.backbone.weights={weights}"), 1, 1)

    run = runner("/home/a/w.pth").table.runs(seeds=1)[0]
    made = [o for o in run.overrides if not o.startswith(("checkpoint.every", "log.every"))]
    made += ["model.backbone.weights=w.pth"]
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{run.id}.json").write_text(json.dumps({"overrides": made}))
    assert runner("/home/b/w.pth").is_done(run)
    with pytest.raises(UserError, match=r"weights=w\.pth\nnot\n.*weights=other\.pth"):
        runner("/home/a/other.pth").is_done(run)
