"""SBD's files, made here in the layout of the published archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from maskrcnn.cli import check_data
from maskrcnn.config.compose import build, compose_config
from maskrcnn.data.check import check_sbd
from maskrcnn.data.download import SETS
from maskrcnn.data.formats.sbd import SbdDataset, SbdSource
from maskrcnn.data.formats.voc import CLASSES
from maskrcnn.errors import UserError
from maskrcnn.evaluation import voc

SHAPE = (24, 32)


def numbers() -> np.ndarray:
    """Object 1 is a block with a hole that object 2 fills; object 3 is alone."""
    out = np.zeros(SHAPE, np.uint8)
    out[2:12, 3:15] = 1
    out[5:8, 6:9] = 2
    out[20:24, 28:32] = 3
    return out


def write_mat(path: Path, segmentation: Any, categories: Any) -> None:
    """As the published files: a struct with the outlines as sparse matrices in a cell array."""
    outlines = np.empty((len(categories), 1), object)
    for k in range(len(categories)):
        outlines[k, 0] = scipy.sparse.csc_matrix(np.zeros(SHAPE))
    column = np.array(categories, np.uint8).reshape(-1, 1)
    struct = {"Segmentation": segmentation, "Boundaries": outlines, "Categories": column}
    scipy.io.savemat(path, {"GTinst": struct}, do_compression=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmark_RELEASE" / "dataset"
    for name in ("img", "inst", "cls"):
        (folder / name).mkdir(parents=True)
    for name in ("2008_000002", "2009_000007"):
        Image.fromarray(np.full((*SHAPE, 3), 90, np.uint8)).save(folder / "img" / f"{name}.jpg")
    write_mat(folder / "inst" / "2008_000002.mat", numbers(), [12, 8, 20])
    write_mat(folder / "inst" / "2009_000007.mat", np.zeros(SHAPE, np.uint8), [])
    (folder / "train.txt").write_text("2008_000002\n2009_000007\n")
    (folder / "val.txt").write_text("2008_000002\n")
    return folder


def test_masks_are_where_the_file_says_and_boxes_are_their_bounds(root: Path) -> None:
    dataset = SbdDataset(root, "train")
    assert (len(dataset), dataset.metric, dataset.report) == (2, "voc", [])
    example = dataset.read(0)
    assert example.image_id == 2008000002
    assert [CLASSES[label] for label in example.labels] == ["dog", "cat", "tvmonitor"]
    np.testing.assert_array_equal(example.boxes, [[3, 2, 15, 12], [6, 5, 9, 8], [28, 20, 32, 24]])
    for k, mask in enumerate(example.masks, start=1):
        assert mask is not None
        np.testing.assert_array_equal(mask.full(*SHAPE), numbers() == k)
    assert not example.crowd.any()
    assert dataset.read(1).masks == []


def test_ground_truth_scored_as_predictions_is_perfect(root: Path) -> None:
    truth = SbdDataset(root, "val").ground_truth()
    predictions = [{**entry, "score": 1.0} for entry in truth["annotations"]]
    assert voc.evaluate(predictions, truth)["voc"] == dict.fromkeys(("AP", "AP07", "APr50", "APr70"), 100)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_data_sbd_finds_the_folder_in_what_was_unpacked(root: Path, level: int) -> None:
    folder = [root, *root.parents][level]
    config = compose_config("train", ["data=sbd", f"data.root={folder}"])
    source = build(config.data.source)
    assert (len(source.train()), len(source.val())) == (2, 1)
    with pytest.raises(UserError, match=r"data=sbd needs data\.root"):
        SbdSource(None).train()
    with pytest.raises(UserError, match=r"no split .*test\.txt; there are: train, val"):
        SbdSource(str(folder), val_split="test").val()
    assert SETS["sbd"][0].name == "benchmark.tgz"


def test_an_object_without_a_pixel_is_passed_over_and_reported(root: Path) -> None:
    write_mat(root / "inst" / "2008_000002.mat", numbers(), [12, 8, 20, 5])
    dataset = SbdDataset(root, "train")
    assert dataset.num_objects.tolist() == [3, 0]
    assert "1 x an object without a pixel, ignored (2008_000002, object 4)" in dataset.report[0]
    assert [d.where for d in check_sbd(root).defects] == ["image 2008_000002, object 4"]


def test_the_check_counts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_data.main([f"sbd={root.parents[1]}"])
    printed = capsys.readouterr().out
    for line in ("images: 2 (1 without", "annotations: 3 (0 crowd", "masks: 3", "class dog: 1", "defects: 0"):
        assert line in printed


def mat(root: Path) -> Path:
    return root / "inst" / "2008_000002.mat"


def save(**content: Any) -> Callable[[Path], None]:
    return lambda root: scipy.io.savemat(mat(root), content)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda r: mat(r).unlink(), r"2008_000002\.mat is missing"),
    "empty": (lambda r: mat(r).write_bytes(b""), r"2008_000002\.mat is damaged"),
    "cut off": (lambda r: mat(r).write_bytes(mat(r).read_bytes()[:-60]), r"2008_000002\.mat is damaged"),
    "no MATLAB file": (
        lambda r: mat(r).write_bytes(b"<html>404</html>" * 20),
        "is damaged, or has no GTinst",
    ),
    "bytes in the middle lost": (
        lambda r: mat(r).write_bytes(mat(r).read_bytes()[:200] + mat(r).read_bytes()[230:]),
        r"2008_000002\.mat",
    ),
    "no GTinst": (save(GTcls={"Segmentation": numbers()}), "has no GTinst"),
    "no Categories": (save(GTinst={"Segmentation": numbers()}), "has no GTinst with Segmentation and Categ"),
    "no struct": (save(GTinst=np.zeros((2, 2))), "has no GTinst with Segmentation"),
    "real numbers": (
        lambda r: write_mat(mat(r), numbers() * 0.5, [1, 2, 3]),
        r"Segmentation is float64 \(24, 32\), not an image",
    ),
    "an unknown class": (lambda r: write_mat(mat(r), numbers(), [1, 21, 3]), r"has the classes \[21\]"),
    "too few classes": (lambda r: write_mat(mat(r), numbers(), [1, 2]), r"shows objects 0\.\.3, but lists 2"),
    "image missing": (lambda r: (r / "img/2008_000002.jpg").unlink(), r"2008_000002\.jpg is missing"),
    "image of another size": (
        lambda r: Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(r / "img/2008_000002.jpg"),
        "is 9 x 9 .* annotations say 24 x 32",
    ),
    "empty split": (lambda r: (r / "train.txt").write_text("\n"), "lists no image"),
    "no inst": (lambda r: (r / "inst").rename(r / "instances"), "is no SBD folder: it has no inst"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_stop_in_words_and_are_found_by_the_check(root: Path, kind: str) -> None:
    damage, words = DAMAGE[kind]
    assert check_sbd(root).defects == []
    damage(root)
    with pytest.raises(UserError, match=words):
        SbdDataset(root, "train").read(0)
    if kind in ("empty split", "no inst"):
        with pytest.raises(UserError, match=words):
            check_sbd(root)
    else:
        assert [defect.where for defect in check_sbd(root).defects] == ["image 2008_000002"]
