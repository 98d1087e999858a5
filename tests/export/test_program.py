"""tools/export.py: the graph finds what the model finds, on images of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.cli import export
from maskrcnn.data.images import read_image
from maskrcnn.data.loader import Canvas, batch_images
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.export.program import exportable, save_onnx, save_program
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.prediction.batching import prepared
from maskrcnn.structures import Images
from tests.data.conftest import REAL_DATA
from tests.models.batches import random_images
from tests.models.test_detector import TINY, TINY_C4, build

SMALL = ["model.rpn.pre_nms_test=100", "model.rpn.post_nms_test=40", "model.box_head.score_threshold=0.05"]


def images() -> list[Images]:
    """Three sizes, of which one leaves levels with fewer places than proposals are kept."""
    made = [random_images(1, side, seed=side) for side in (96, 160, 256)]
    made[1].sizes[:] = torch.tensor([[131.0, 150.0]])
    return made


def model(name: str) -> MaskRCNN:
    if name == "c4":
        return build("model=r18_c4", *TINY_C4, *SMALL, "roi_op=pool").eval()
    if name == "keypoints":
        return build("model=r18_fpn_keypoints", *TINY[:2], *SMALL, "num_keypoints=3").eval()
    return build(*TINY, *SMALL).eval()


def assert_same(detector: MaskRCNN, found: list[np.ndarray], image: Images) -> None:
    """Boxes to 1e-2 px, scores and masks to 1e-4, the same detections but for the order of nearly equal scores."""
    with torch.no_grad():
        expected = detector.detect(image)
    out = dict(zip(exportable(detector).names, found, strict=True))
    valid = expected.valid[0].numpy()
    np.testing.assert_array_equal(out["valid"][0], valid)
    boxes, labels = expected.boxes[0].numpy()[valid], expected.labels[0].numpy()[valid]
    apart = np.abs(out["boxes"][0][valid][:, None] - boxes).max(-1)
    row = (apart + 1e6 * (out["labels"][0][valid][:, None] != labels)).argmin(0)  # of each expected detection
    assert sorted(row) == list(range(len(row)))
    assert apart[row, np.arange(len(row))].max() < 1e-2
    np.testing.assert_allclose(out["scores"][0][valid], expected.scores[0].numpy()[valid], atol=1e-4)
    if expected.masks is not None:
        masks = out["masks"][0][valid][row]
        np.testing.assert_allclose(masks, expected.masks[0].numpy()[valid], atol=1e-3)
    if expected.keypoints is not None:
        points, wanted = out["keypoints"][0][valid][row], expected.keypoints[0].numpy()[valid]
        np.testing.assert_allclose(points[..., 2], wanted[..., 2], atol=1e-4)
        assert (np.abs(points - wanted)[..., :2].max(-1) < 1e-2).mean() > 0.98  # flat heatmaps of no training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fpn", "c4", "keypoints"])
def test_the_exported_program_finds_the_same(name: str, tmp_path: Path) -> None:
    detector = model(name)
    save_program(detector, tmp_path / "a.pt2")
    program = torch.export.load(tmp_path / "a.pt2").module()
    for image in images():
        with torch.no_grad():
            found = program(image.pixels, image.sizes)
        assert_same(detector, [part.numpy() for part in found], image)


def session(detector: MaskRCNN, path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime", reason="the extra package onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="the extra package onnxscript is not installed")
    save_onnx(detector, path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fpn", "c4", "keypoints"])
def test_onnx_finds_the_same(name: str, tmp_path: Path) -> None:
    detector = model(name)
    running = session(detector, tmp_path / "a.onnx")
    for image in images():
        found = running.run(None, {"pixels": image.pixels.numpy(), "size": image.sizes.numpy()})
        assert_same(detector, found, image)


@pytest.mark.slow
def test_onnx_finds_the_same_in_twenty_real_images(tmp_path: Path) -> None:
    folder = REAL_DATA / "coco_subset" / "val2017"
    if not folder.is_dir():
        pytest.skip(f"the real data {folder} is not here (MASKRCNN_REAL_DATA names its folder)")
    detector = build(*TINY, "model.box_head.score_threshold=0.03").eval()
    running = session(detector, tmp_path / "a.onnx")
    counts = []
    for path in sorted(folder.glob("*.jpg"))[:20]:
        sample = prepared(read_image(path), Transform(short_side=320, max_size=533))
        image = batch_images([sample.picture], Canvas())
        found = running.run(None, {"pixels": image.pixels.numpy(), "size": image.sizes.numpy()})
        counts.append(assert_same_set(detector, found, image))
    assert min(counts) > 0


def assert_same_set(detector: MaskRCNN, found: list[np.ndarray], image: Images) -> int:
    """As `assert_same`, in whatever order nearly equal scores put them; how many."""
    with torch.no_grad():
        expected = detector.detect(image)
    valid, there = expected.valid[0].numpy(), found[3][0]
    assert valid.sum() == there.sum()
    boxes, scores, labels = (
        getattr(expected, name)[0].numpy()[valid] for name in ("boxes", "scores", "labels")
    )
    for box, score, label in zip(found[0][0][there], found[1][0][there], found[2][0][there], strict=True):
        apart = np.abs(boxes - box).max(1) + 1e6 * (labels != label)
        nearest = int(apart.argmin())
        assert apart[nearest] < 1e-2
        assert abs(scores[nearest] - score) < 1e-4
    return int(there.sum())


def test_the_tool_refuses_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"checkpoint=FILE, format=onnx, torch_export or safetensors, and out="
    ):
        export.main([])
    with pytest.raises(UserError, match="format=tflite: there are onnx, torch_export"):
        export.main(["checkpoint=a.pt", "out=b", "format=tflite"])
    with pytest.raises(UserError, match="only a model with an RPN and a box head"):
        exportable(build("model=r18_rpn"))
