"""tools/eval.py reproduces a run's numbers and scores files; tools/predict.py writes pictures and COCO json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn.cli import eval as eval_command
from maskrcnn.cli import predict
from maskrcnn.errors import UserError
from maskrcnn.training import checkpoint
from tests.cli.test_train import annotations_of


def test_eval_reproduces_the_runs_numbers(run: Path, tmp_path: Path) -> None:
    eval_command.main([f"checkpoint={run / 'last.pt'}", f"run_dir={tmp_path}", "threads=1"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(
        (run / "metrics.json").read_text()
    )
    assert json.loads((tmp_path / "predictions.json").read_text()) == json.loads(
        (run / "predictions.json").read_text()
    )


def test_eval_scores_a_file_without_a_model(run: Path, tiny: Sequence[str], tmp_path: Path) -> None:
    files = [f"predictions={run / 'predictions.json'}", f"annotations={annotations_of(tiny)}"]
    eval_command.main([*files, f"run_dir={tmp_path}"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(
        (run / "metrics.json").read_text()
    )


def test_eval_by_vocs_metric_and_in_detail(run: Path, tiny: Sequence[str], tmp_path: Path) -> None:
    files = [f"predictions={run / 'predictions.json'}", f"annotations={annotations_of(tiny)}"]
    eval_command.main([*files, "metric=voc", "evaluation.details=true", f"run_dir={tmp_path}"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {name: set(values) for name, values in metrics.items()} == {
        "voc": {"AP", "AP07", "APr50", "APr70"}
    }
    details = json.loads((tmp_path / "details.json").read_text())
    assert set(details) == {"bbox", "segm", "boundary"}
    assert set(details["segm"]["per_class"]) == {"circle", "square", "triangle", "star"}
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "errors.png",
        "confusion.png",
        "precision_recall.png",
    }
    with pytest.raises(UserError, match="metric=pascal: there are coco and voc"):
        eval_command.main([*files, "metric=pascal"])


def test_both_packages_give_the_same_metrics(run: Path, tiny: Sequence[str], tmp_path: Path) -> None:
    files = [f"predictions={run / 'predictions.json'}", f"annotations={annotations_of(tiny)}"]
    for backend in ("hotcoco", "pycocotools"):
        eval_command.main([*files, f"evaluation.backend={backend}", f"run_dir={tmp_path / backend}"])
        assert (tmp_path / backend / "metrics.json").read_text() == (run / "metrics.json").read_text()


def test_eval_with_area_ranges_and_a_table_of_classes(
    run: Path, tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"predictions={run / 'predictions.json'}", f"annotations={annotations_of(tiny)}"]
    ranges = "evaluation.area_ranges={low:[0,500],high:[500,null]}"
    eval_command.main([*files, ranges, "evaluation.per_class=true", f"run_dir={tmp_path}"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["segm"]) == ["AP", "AP50", "AP75", "APlow", "APhigh"]
    table = json.loads((tmp_path / "per_class.json").read_text())
    assert set(table["bbox"]) == {"circle", "square", "triangle", "star"}
    assert set(table["segm"]["star"]) == set(metrics["segm"])
    printed = capsys.readouterr().out
    assert "segm, every class" in printed
    assert "triangle" in printed
    with pytest.raises(UserError, match=r"evaluation\.area_ranges\.low=\[5, 2\]: expected \[least, most\]"):
        eval_command.main([*files, "evaluation.area_ranges={low:[5,2]}", f"run_dir={tmp_path}"])


def test_eval_on_other_data_and_with_another_operator(run: Path, tiny: Sequence[str], tmp_path: Path) -> None:
    annotations = annotations_of(tiny)
    images = annotations.parent / "images"
    data = [
        "data=custom",
        f"data.val_annotations={annotations}",
        f"data.val_images={images}",
        "data.short_side=96",
        "data.num_workers=0",
    ]
    eval_command.main([f"checkpoint={run / 'last.pt'}", *data, f"run_dir={tmp_path / 'custom'}", "threads=1"])
    assert json.loads((tmp_path / "custom" / "metrics.json").read_text()) == json.loads(
        (run / "metrics.json").read_text()
    )
    eval_command.main(
        [f"checkpoint={run / 'last.pt'}", "roi_op=pool", f"run_dir={tmp_path / 'pool'}", "threads=1"]
    )
    assert json.loads((tmp_path / "pool" / "predictions.json").read_text()) != json.loads(
        (run / "predictions.json").read_text()
    )


@pytest.mark.slow
def test_eval_in_tiles_as_large_as_the_images_changes_nothing(run: Path, tmp_path: Path) -> None:
    for name, tile in (("plain", "null"), ("whole", "96"), ("cut", "64")):
        settings = [f"evaluation.tile={tile}", "evaluation.overlap=0.5", "data.num_workers=1", "threads=1"]
        alone = "evaluation.batch_size=1"  # other batches round otherwise
        eval_command.main([f"checkpoint={run / 'last.pt'}", *settings, alone, f"run_dir={tmp_path / name}"])
    expected, whole, cut = (
        json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("plain", "whole", "cut")
    )
    assert whole == expected
    assert {p["image_id"] for p in cut} == {p["image_id"] for p in expected}
    assert all(p["segmentation"]["size"] == [96, 96] for p in cut)
    assert len(cut) > len(expected)  # four windows of an image give ten detections each
    with pytest.raises(UserError, match="tile=8: a window has at least 32 pixels"):
        eval_command.main([f"checkpoint={run / 'last.pt'}", "evaluation.tile=8", f"run_dir={tmp_path}"])


def test_predict_in_tiles_finds_what_the_crops_show(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 192, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), image)
    (tmp_path / "crops").mkdir()
    for part in range(3):
        cv2.imwrite(str(tmp_path / "crops" / f"{part}.png"), image[:, 64 * part : 64 * part + 64])
    common = [f"checkpoint={run / 'last.pt'}", "threads=1", "model.box_head.num_detections=4"]
    predict.main(
        [*common, f"input={tmp_path / 'wide.png'}", "tile=64", "overlap=0", f"run_dir={tmp_path / 'a'}"]
    )
    predict.main([*common, f"input={tmp_path / 'crops'}", f"run_dir={tmp_path / 'b'}"])
    wide, crops = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in "ab")
    moved = [[p["bbox"][0] + 64 * int(p["file_name"][0]), *p["bbox"][1:]] for p in crops]
    assert sorted(p["bbox"] for p in wide) == [pytest.approx(box, abs=1e-3) for box in sorted(moved)]
    with pytest.raises(UserError, match=r"overlap=0.95: expected a share"):
        predict.main([*common, f"input={tmp_path / 'wide.png'}", "tile=64", "overlap=0.95"])


def test_predict_writes_pictures_and_json(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (80, 60)), ("a.jpg", (50, 90))):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    out = tmp_path / "out"
    predict.main(
        [
            f"checkpoint={run / 'last.pt'}",
            f"input={tmp_path}",
            f"run_dir={out}",
            "threads=1",
            "score_threshold=0",
        ]
    )
    assert cv2.imread(str(out / "b.png")).shape == (80, 60, 3)
    assert cv2.imread(str(out / "a.png")).shape == (50, 90, 3)
    results = json.loads((out / "predictions.json").read_text())
    assert {(r["image_id"], r["file_name"]) for r in results} == {(1, "a.jpg"), (2, "b.png")}
    for result in results:
        height, width = {1: (50, 90), 2: (80, 60)}[result["image_id"]]
        x, y, w, h = result["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3
        assert coco_mask.decode(result["segmentation"]).shape == (height, width)
    dataset = COCO(str(out / "annotations.json"))
    assert len(dataset.anns) == len(results)
    assert len(dataset.loadRes(str(out / "predictions.json")).anns) == len(results)


def test_predict_on_one_file_equals_predict_on_a_glob(run: Path, tmp_path: Path) -> None:
    cv2.imwrite(
        str(tmp_path / "a.png"), np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )
    found = []
    for number, source in enumerate((tmp_path / "a.png", tmp_path / "*.png")):
        predict.main(
            [
                f"checkpoint={run / 'last.pt'}",
                f"input={source}",
                f"run_dir={tmp_path / str(number)}",
                "threads=1",
            ]
        )
        found.append((tmp_path / str(number) / "predictions.json").read_text())
    assert found[0] == found[1]


def test_what_is_missing_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image found; expected a file, a folder"):
        predict.main([f"checkpoint={run / 'last.pt'}", f"input={tmp_path / 'absent'}"])
    with pytest.raises(UserError, match="give checkpoint=FILE and input="):
        predict.main([f"checkpoint={run / 'last.pt'}"])
    with pytest.raises(UserError, match="no such file"):
        eval_command.main([f"checkpoint={tmp_path / 'absent.pt'}"])
    with pytest.raises(UserError, match="give either checkpoint=FILE, or predictions=FILE"):
        eval_command.main([])
    with pytest.raises(UserError, match="needs annotations=FILE"):
        eval_command.main([f"predictions={run / 'predictions.json'}"])


FOREIGN = [
    "os.mkdir",
    "maskrcnn.training.checkpoint.os.mkdir",
    "torch.nn.modules.module.warnings.warn",
    "maskrcnn.cli.train.main",  # whose arguments may name what it likes
    "maskrcnn.config.build.load_trained",
    "maskrcnn.training.checkpoint.save",
    "maskrcnn.data.images.read_image",
    "maskrcnn.training.run_dir.RunDir",
    "maskrcnn.models.backbones.resnet.OfAnotherVersion",
]


@pytest.mark.parametrize("target", FOREIGN)
def test_a_checkpoint_cannot_call_what_it_likes(run: Path, tmp_path: Path, target: str) -> None:
    content = checkpoint.load(run / "last.pt")
    content["config"]["data"]["test_transform"] = {"_target_": target, "path": str(tmp_path / "was_here")}
    checkpoint.save(tmp_path / "a.pt", content)
    with pytest.raises(UserError, match=f"would call {target}"):
        eval_command.main([f"checkpoint={tmp_path / 'a.pt'}", f"run_dir={tmp_path / 'out'}"])
    assert not (tmp_path / "was_here").exists()


def test_predict_on_a_folder_of_folders_keeps_names_apart(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("one/a.png", "two/a.png", "two/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    out = tmp_path / "out"
    arguments = [f"checkpoint={run / 'last.pt'}", f"run_dir={out}", "threads=1", "score_threshold=0"]
    predict.main([*arguments, f"input='{tmp_path}/*/a.*'", "masks=true", "batch_size=2"])
    assert {p.relative_to(out).as_posix() for p in out.glob("???/*.png")} == {
        "one/a.png",
        "two/a.png",
        "two/a.png.png",
    }
    results = json.loads((out / "predictions.json").read_text())
    assert [i["file_name"] for i in json.loads((out / "annotations.json").read_text())["images"]] == [
        "one/a.png",
        "two/a.jpg",
        "two/a.png",
    ]
    first = [r for r in results if r["image_id"] == 1]
    pngs = sorted((out / "masks" / "one" / "a").iterdir())
    assert len(pngs) == len(first) > 0
    for path, result in zip(pngs, first, strict=True):
        mask = coco_mask.decode(result["segmentation"])
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), mask * 255)


@pytest.mark.slow
def test_predict_on_a_video(run: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for level in range(7):
        writer.write(np.full((64, 96, 3), 30 * level, np.uint8))
    writer.release()
    arguments = [f"checkpoint={run / 'last.pt'}", f"input={clip}", "threads=1", "batch_size=4"]
    predict.main([*arguments, f"run_dir={tmp_path / 'out'}"])
    written = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert written.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert written.get(cv2.CAP_PROP_FPS) == 10
    levels = [written.read()[1].mean() for _ in range(7)]
    assert levels == sorted(levels)
    images = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]
    assert [(i["file_name"], i["frame"], i["height"], i["width"]) for i in images] == [
        ("clip.avi", n, 64, 96) for n in range(7)
    ]
    predict.main([*arguments, "max_frames=2", f"run_dir={tmp_path / 'short'}"])
    assert len(json.loads((tmp_path / "short" / "annotations.json").read_text())["images"]) == 2


def test_predict_says_what_cannot_be_opened(run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"the video .*broken\.mp4 cannot be opened"):
        predict.main([f"checkpoint={run / 'last.pt'}", f"input={tmp_path / 'broken.mp4'}"])
    with pytest.raises(UserError, match="camera 97 cannot be opened"):
        predict.main([f"checkpoint={run / 'last.pt'}", "input=97"])


@pytest.mark.slow
def test_predict_with_several_views(run: Path, tmp_path: Path) -> None:
    cv2.imwrite(
        str(tmp_path / "a.png"), np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )
    arguments = [f"checkpoint={run / 'last.pt'}", f"input={tmp_path / 'a.png'}", "threads=1"]
    for name, more in (("one", []), ("many", ["flip=true", "scales=[1.0,1.5]"])):
        predict.main([*arguments, *more, f"run_dir={tmp_path / name}"])
    one, many = (json.loads((tmp_path / n / "predictions.json").read_text()) for n in ("one", "many"))
    assert len(one) > 0
    assert one != many
    assert sum(r["score"] for r in many[:10]) >= sum(r["score"] for r in one[:10])


@pytest.mark.slow
def test_predict_passes_over_a_damaged_picture_and_spares_the_originals(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "a.png", "c.png"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (folder / "b.png").write_bytes(b"no picture")
    arguments = [f"checkpoint={run / 'best.pt'}", f"input={folder}", "score_threshold=0.0", "masks=true"]
    predict.main([*arguments, f"run_dir={out}"])
    assert "passed over: the image" in (printed := capsys.readouterr().out)
    assert "3 images" in printed
    assert {path.name for path in (out / "masks").iterdir()} == {"a", "a.png", "c"}  # of a.jpg and of a.png
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="is where the input lies"):
        predict.main([*arguments, f"run_dir={folder}"])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(UserError, match="could not be decoded"):
        predict.main([f"checkpoint={run / 'best.pt'}", f"input={folder / 'b.png'}", f"run_dir={out}"])


def test_a_recipe_is_no_argument_of_a_stored_model(run: Path) -> None:
    with pytest.raises(UserError, match=r"experiment=nuclei: a recipe is for tools/train\.py"):
        eval_command.main([f"checkpoint={run / 'best.pt'}", "experiment=nuclei"])
