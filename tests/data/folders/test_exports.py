"""Real data written as other programs' exports gives the same targets through `data=folder` as the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folders.source import FolderSource, write_coco
from maskrcnn.data.formats.coco import CustomCoco
from maskrcnn.data.formats.voc import VocSource
from tests.data.folders import exports


def targets(
    dataset: Dataset,
) -> Iterator[tuple[str, tuple[int, int], list[str], np.ndarray, list[Any], list[bool]]]:
    """The name, size, classes, boxes, masks and crowds of each image, by the first part of its name."""
    names = [category["name"] for category in dataset.categories]
    found = []
    for index in range(len(dataset)):
        record = dataset.record(index)
        name = Path(record.file_name).stem.partition("_jpg.rf.")[0]
        labels = [names[label] for label in record.labels]
        size = record.height, record.width
        found.append((name, size, labels, record.boxes, dataset.masks(record), record.crowd.tolist()))
    yield from sorted(found, key=lambda entry: entry[0])


def compare(found: Dataset, original: Dataset, pixels: float = 0) -> None:
    """The same images, classes and masks; boxes that differ by at most ``pixels``."""
    assert len(found) == len(original)
    for mine, theirs in zip(targets(found), targets(original), strict=True):
        assert mine[:3] == theirs[:3]
        assert mine[5] == theirs[5]
        np.testing.assert_allclose(mine[3], theirs[3], rtol=0, atol=pixels)
        for a, b in zip(mine[4], theirs[4], strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert (a.x0, a.y0) == (b.x0, b.y0)
                np.testing.assert_array_equal(a.bits, b.bits)


@pytest.fixture
def facades(real_data: Callable[[str], Path], tmp_path: Path) -> tuple[Path, CustomCoco]:
    root = real_data("facades")
    exports.write_all(root, tmp_path)
    files = [str(root / name) for name in ("train.json", "train", "val.json", "val")]
    return tmp_path, CustomCoco(*files)


@pytest.mark.slow
@pytest.mark.parametrize(("export", "pixels"), [("roboflow", 0), ("yolo", 1.0)])
def test_facades(export: str, pixels: float, facades: tuple[Path, CustomCoco]) -> None:
    """YOLO's boxes are those of the outlines, which the original's are to a pixel."""
    source = FolderSource(str(facades[0] / export))
    found, original = source.val(), facades[1].val()
    assert found is not None
    assert original is not None
    compare(found, original, pixels)
    if export == "roboflow":
        compare(source.train(), facades[1].train(), pixels)


@pytest.mark.slow
def test_facades_as_boxes(facades: tuple[Path, CustomCoco]) -> None:
    found, original = FolderSource(str(facades[0] / "voc")).val(), facades[1].val()
    assert found is not None
    assert original is not None
    for mine, theirs in zip(targets(found), targets(original), strict=True):
        kept = (theirs[3][:, 2:] - theirs[3][:, :2]).min(1, initial=np.inf) >= 1
        assert mine[2] == [name for name, keep in zip(theirs[2], kept, strict=True) if keep]
        np.testing.assert_allclose(mine[3], theirs[3][kept], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_voc_and_what_is_written_of_it(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = real_data("VOCdevkit")
    original, source = VocSource(str(root)), FolderSource(str(root))
    found = source.val()
    assert found is not None
    compare(found, original.val())
    lines = list(write_coco(source.parts(), root, tmp_path / "coco", link=True))
    assert f"wrote {tmp_path}/coco/annotations/instances_val.json: 213 images" in lines[-1]
    written = FolderSource(str(tmp_path / "coco")).val()
    assert written is not None
    compare(written, original.val())
