"""YOLO's labels: outlines and boxes, data.yaml as tools write it, to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maskrcnn.data.folders.source import FolderSource
from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, SIZE, block, check, everything, l_shape, read

OUTLINE = "1 " + " ".join(f"{x / SIZE[1]:.8f} {y / SIZE[0]:.8f}" for x, y in L_SHAPE)
TALL = "0 0.5 0 1 0 1 0.5 0.5 0.5"  # the upper right quarter
BOX = "0 0.5 0.5 0.5 0.25"  # x 15 to 45, y 15 to 25


def label(root: Path, name: str, *lines: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def root(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    """An export of Ultralytics' layout without data.yaml."""
    for part in ("train", "val"):
        picture(f"images/{part}/a.jpg")
        label(tmp_path / "data", f"labels/{part}/a.txt", OUTLINE, "", TALL)
    return tmp_path / "data"


YAML = {
    "ultralytics": "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n  0: nut\n  1: screw\n",
    "roboflow": "train: ../images/train\nval: ../images/val\ntest: ../images/test\nnc: 2\nnames: ['nut', 'screw']\n",
    "lists": "train: [images/train]\nval: val.txt\nnames: [nut, screw]\n",
    "colab": "train: /content/mine/images/train\nval: C:\\mine\\images\\val\nnames: [nut, screw]\n",
}


@pytest.mark.parametrize("tool", YAML)
def test_outlines_are_read_to_the_pixel(tool: str, root: Path) -> None:
    (root / "data.yaml").write_text(YAML[tool])
    (root / "val.txt").write_text("./images/val/a.jpg\n")
    source = FolderSource(str(root))
    train, val = source.train(), source.val()
    assert val is not None
    for dataset, name in ((train, "images/train/a.jpg"), (val, "images/val/a.jpg")):
        found = read(dataset)
        assert list(found) == [name]
        check(found[name], ("screw", l_shape()), ("nut", block(30, 0, 60, 20)))
        assert [c["name"] for c in dataset.categories] == ["nut", "screw"]


def test_boxes_are_read_and_a_mixture_with_outlines_is_refused(root: Path) -> None:
    (root / "classes.txt").write_text("nut\nscrew\n")
    label(root, "labels/train/a.txt", BOX)
    train = FolderSource(str(root)).train()
    assert read(train) == {"images/train/a.jpg": [("nut", [15, 15, 45, 25])]}
    label(root, "labels/train/a.txt", BOX, OUTLINE)
    with pytest.raises(
        UserError, match=r"\(train\) has 1 rectangles among 1 outlines: data\.rectangles=masks"
    ):
        FolderSource(str(root)).train()
    objects = read(FolderSource(str(root), rectangles="masks").train())["images/train/a.jpg"]
    check(objects, ("nut", block(15, 15, 45, 25)), ("screw", l_shape()))


def test_labels_without_names_need_the_key(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"neither data\.yaml nor classes\.txt .* set data\.classes=\[first,second"
    ):
        everything(root)
    dataset = everything(root, classes=["nut", "screw"])
    check(read(dataset)["images/train/a.jpg"], ("screw", l_shape()), ("nut", block(30, 0, 60, 20)))
    (root / "classes.txt").write_text("nut\nscrew\n")
    with pytest.raises(UserError, match=r"data\.classes=\[a,b\] is for files without names of classes"):
        everything(root, classes=["a", "b"])


def test_labels_next_to_their_images(picture: Callable[..., Path]) -> None:
    path = picture("a.jpg")
    label(path.parent, "a.txt", OUTLINE)
    (path.parent / "classes.txt").write_text("nut\nscrew\n")
    check(read(everything(path.parent))["a.jpg"], ("screw", l_shape()))


def test_images_without_labels_are_background_unless_they_are_most(
    root: Path, picture: Callable[..., Path]
) -> None:
    (root / "classes.txt").write_text("nut\nscrew\n")
    picture("images/train/b.jpg")
    train = FolderSource(str(root)).train()
    assert read(train)["images/train/b.jpg"] == []
    assert train.report[1].startswith(
        "1 images without annotations are read as background (data.unlabelled=left_out"
    )
    assert len(FolderSource(str(root), unlabelled="left_out").train()) == 1
    picture("images/train/c.jpg")
    with pytest.raises(
        UserError, match=r"\(train\) is incomplete: 2 of its 3 images have no annotations \(images/tr"
    ):
        FolderSource(str(root)).train()
    assert len(FolderSource(str(root), unlabelled="background").train()) == 3


def test_labels_without_images_are_refused(root: Path) -> None:
    (root / "classes.txt").write_text("nut\nscrew\n")
    label(root, "labels/train/b.txt", BOX)
    with pytest.raises(
        UserError, match=r"1 images that the annotations name are missing \(that of .*b\.txt\); add"
    ):
        everything(root)


def test_a_test_part_without_labels_is_no_half_export(root: Path, picture: Callable[..., Path]) -> None:
    (root / "classes.txt").write_text("nut\nscrew\n")
    picture("images/test/c.jpg")
    assert sorted(FolderSource(str(root)).parts()) == ["train", "val"]
    label(root, "labels/test/c.txt", OUTLINE)
    assert sorted(FolderSource(str(root)).parts()) == ["test", "train", "val"]
    found = read(FolderSource(str(root), val_split="test").val())  # type: ignore[arg-type]
    check(found["images/test/c.jpg"], ("screw", l_shape()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.5 0.5", r"line 1: class 2, but there are 2, numbered from 0 on"),
        ("0.5 0.5 0.5 0.5 0.5", r"class 0\.5, but there are 2"),
        ("0 0.5 0.5 0.5", r"3 numbers after the class; expected x, y, width, height, or"),
        ("0 0.5 0.5 0.5 0.5 0.9", r"5 numbers after the class"),
        ("0 30 20 10 10", r"10 to 30, but coordinates are shares of the image, 0 to 1"),
        ("nut 0.5 0.5 0.5 0.5", r"line 1: could not convert string to float: 'nut'"),
    ],
)
def test_a_wrong_line_is_named(root: Path, line: str, words: str) -> None:
    (root / "classes.txt").write_text("nut\nscrew\n")
    label(root, "labels/train/a.txt", line)
    with pytest.raises(UserError, match=words):
        everything(root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "train: images/trian\nval: images/val\nnames: [nut, screw]\n",
            r"says train: images/trian, but there is no",
        ),
        ("train: images/train\nnames: {0: nut, 2: screw}\n", r"numbers its names 0, 2; expected 0, 1, 2"),
        ("train: images/train\nnames: [nut, screw]\nkpt_shape: [17, 3]\n", r"describes keypoints"),
        ("train: [images/train\nnames: [nut, screw]\n", r"cannot be read as YAML"),
    ],
)
def test_a_wrong_data_yaml_is_named(root: Path, text: str, words: str) -> None:
    (root / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        everything(root)


def test_oriented_boxes_are_named(root: Path) -> None:
    (root / "classes.txt").write_text("nut\nscrew\n")
    for part in ("train", "val"):
        label(root, f"labels/{part}/a.txt", TALL)
    train = FolderSource(str(root)).train()
    check(read(train)["images/train/a.jpg"], ("nut", block(30, 0, 60, 20)))
    assert [line for line in train.report if "oriented boxes are read as masks" in line]
    label(root, "labels/train/a.txt", TALL, OUTLINE)
    assert not [line for line in FolderSource(str(root)).train().report if "oriented boxes" in line]
