"""Detections in the forms that other programs read, against those programs where they are installed."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn import Predictor
from maskrcnn.cli import predict
from maskrcnn.data.masks import crop_to_object, outlines
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.prediction.detections import ImageDetections
from maskrcnn.prediction.outputs import as_annotation
from tests.prediction.test_predictor import model, pictures

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["circle", "square", "star"]


def found_in(size: tuple[int, int] = (96, 128)) -> ImageDetections:
    return Predictor(model(), Transform(), device="cpu").predict(pictures([size]))[0]


def test_supervision_gets_boxes_scores_names_and_every_masks_pixels() -> None:
    sv = pytest.importorskip("supervision", reason="the extra maskrcnn[supervision] is not installed")
    found = found_in()
    theirs = found.to_supervision(NAMES)
    assert isinstance(theirs, sv.Detections)
    assert len(theirs) == len(found) > 10
    np.testing.assert_array_equal(theirs.xyxy, found.boxes.numpy())
    np.testing.assert_array_equal(theirs.confidence, found.scores.numpy())
    np.testing.assert_array_equal(theirs.class_id, found.labels.numpy())
    assert list(theirs["class_name"]) == [NAMES[label] for label in found.labels.tolist()]
    dense = np.asarray(theirs.mask)
    for index, rle in enumerate(found.masks or []):
        np.testing.assert_array_equal(dense[index], coco_mask.decode(rle).astype(bool))
    assert dense.any(axis=(1, 2)).sum() > 5
    drawn = sv.MaskAnnotator().annotate(np.zeros((96, 128, 3), np.uint8), theirs)
    np.testing.assert_array_equal(drawn.any(axis=2), dense.any(axis=0))
    kept = found.above(float(found.scores[3])).to_supervision()
    assert len(kept) >= 4
    assert kept.data == {}


def test_supervision_without_masks_and_without_detections() -> None:
    pytest.importorskip("supervision", reason="the extra maskrcnn[supervision] is not installed")
    none = torch.zeros(0, dtype=torch.int64)
    for masks in (None, []):
        empty = ImageDetections(torch.zeros(0, 4), none, torch.zeros(0), masks, (40, 50)).to_supervision(
            NAMES
        )
        assert len(empty) == 0
    boxes = ImageDetections(torch.ones(1, 4), torch.tensor([1]), torch.tensor([0.5]), None, (40, 50))
    assert boxes.to_supervision(NAMES).mask is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "supervision":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    found = found_in((64, 64))
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'maskrcnn\[supervision\]'"):
        found.to_supervision()


@pytest.mark.parametrize("seed", range(20))
def test_outlines_rasterised_by_cocos_package_are_the_mask_to_a_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = np.zeros((120, 150), np.uint8)
    for _ in range(3):
        x, y, w, h = (int(v) for v in rng.integers([0, 0, 1, 1], [110, 80, 40, 40]))
        cv2.ellipse(
            drawn, (x + w // 2, y + h // 2), (w // 2, h // 2), float(rng.integers(0, 90)), 0, 360, 1, -1
        )
    mask = crop_to_object(drawn)
    assert mask is not None
    again = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines(mask), *drawn.shape)))
    wider = cv2.dilate(drawn, np.ones((3, 3), np.uint8))
    narrower = cv2.erode(drawn, np.ones((3, 3), np.uint8))
    assert (again <= wider).all()
    assert (again >= narrower).all()


@pytest.mark.slow
def test_annotation_programs_get_polygons(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "a.png"), rng.integers(0, 256, (96, 120, 3), dtype=np.uint8))
    common = [f"checkpoint={run / 'last.pt'}", f"input={folder}", "threads=1"]
    for name, chosen in (("rle", "false"), ("polygons", "true")):
        predict.main([*common, f"polygons={chosen}", f"run_dir={tmp_path / name}"])
    exact, read = (COCO(str(tmp_path / name / "annotations.json")) for name in ("rle", "polygons"))
    assert len(read.anns) == len(exact.anns) > 0
    for number, annotation in read.anns.items():
        assert isinstance(annotation["segmentation"], list)
        if annotation["segmentation"]:
            theirs, ours = read.annToMask(annotation), exact.annToMask(exact.anns[number])
            assert not (theirs & ~cv2.dilate(ours, np.ones((3, 3), np.uint8))).any()
    results = [json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("rle", "polygons")]
    assert results[0] == results[1]


def test_label_studios_converter_reads_the_polygons(tmp_path: Path) -> None:
    converter = pytest.importorskip(
        "label_studio_sdk.converter.imports.coco",
        reason="needs the optional package: pip install label-studio-sdk",
    )
    found = found_in()
    results = [as_annotation(r, n, polygons=True) for n, r in enumerate(found.to_coco(1, [1, 2, 3]), 1)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 96, "width": 128}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
        "annotations": results,
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    converter.convert_coco_to_ls(
        str(tmp_path / "annotations.json"), str(tmp_path / "tasks.json"), out_type="predictions"
    )
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    kinds = [item["type"] for item in task["predictions"][0]["result"]]
    assert kinds.count("rectanglelabels") == len(found) > 10
    assert kinds.count("polygonlabels") == sum(len(r["segmentation"]) for r in results) > 5


def test_the_sahi_model_is_short_and_on_the_page() -> None:
    text = (ROOT / "examples" / "sahi_model.py").read_text()
    assert text in (ROOT / "docs" / "interop.md").read_text()
    assert len(text.splitlines()) < 40


SAHI = """
import numpy as np
from pycocotools import mask as coco_mask
from sahi.predict import get_prediction, get_sliced_prediction
from examples.sahi_model import SahiModel
from maskrcnn import Predictor
from maskrcnn.data.transforms import Transform
from tests.prediction.test_interop import NAMES, model, pictures
categories = [{"id": i, "name": n} for i, n in enumerate(NAMES, 1)]
image = pictures([(96, 128)])[0]
for change in ("model.mask_head=null", "seed=0"):
    predictor = Predictor(model(change), Transform(), device="cpu", categories=categories)
    everything = predictor.predict([image])[0]
    least = float(everything.scores[5])
    ours = everything.above(least)
    sahi_model = SahiModel(model=predictor, confidence_threshold=least)
    theirs = get_prediction(image, sahi_model).object_prediction_list
    assert len(theirs) == len(ours) > 3, (len(theirs), len(ours))
    for index, one in enumerate(theirs):
        assert one.category.name == NAMES[ours.labels[index]]
        assert abs(one.score.value - ours.scores[index]) < 1e-6
        if ours.masks is None:
            assert np.allclose(one.bbox.to_xyxy(), ours.boxes[index], atol=1.0)
        elif one.mask is not None:  # SAHI takes the box of the mask, without its smallest parts
            x, y, w, h = coco_mask.toBbox(ours.masks[index])
            x1, y1, x2, y2 = one.bbox.to_xyxy()
            assert x - 1 <= x1 < x2 <= x + w + 1 and y - 1 <= y1 < y2 <= y + h + 1
sliced = get_sliced_prediction(image, sahi_model, slice_height=64, slice_width=64, verbose=0)
assert max(p.bbox.maxx for p in sliced.object_prediction_list) > 64
print("matched", len(theirs), "sliced", len(sliced.object_prediction_list))
"""


def test_sahi_gets_the_detections(tmp_path: Path) -> None:
    pytest.importorskip("sahi", reason="needs the optional package: pip install sahi")
    done = subprocess.run([sys.executable, "-c", SAHI], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "matched" in done.stdout
