"""What `data=folder` does whatever the format: choosing it, dividing, and wrong folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskrcnn.data.folders.folder import Folder, Format, Part, part_called
from maskrcnn.data.folders.source import FORMATS, FolderSource
from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, check, everything, l_shape, read
from tests.data.folders.test_labelme import describe, shape


@pytest.fixture
def many(picture: Callable[..., Path]) -> Path:
    """Thirty images in LabelMe's format."""
    for k in range(30):
        describe(picture(f"{k:02d}.jpg"), shape("nut", L_SHAPE))
    return picture("00.jpg").parent


def names(dataset: Any) -> set[str]:
    return set(read(dataset))


def test_a_hash_of_the_names_divides_and_keeps_images_on_their_side(
    many: Path, picture: Callable[..., Path]
) -> None:
    source = FolderSource(str(many), val_share=0.3)
    train, val = source.train(), source.val()
    assert val is not None
    before = names(train), names(val)
    assert len(before[0] | before[1]) == 30
    assert not before[0] & before[1]
    assert 4 <= len(val) <= 14  # a binomial of 30 and 0.3, to four standard deviations at least on one side
    assert train.report[
        -1
    ] == f"no validation split: {len(val)} of 30 images are validated on, chosen by their names " + (
        "(data.val_share=0.3)"
    )
    for k in range(30, 40):
        describe(picture(f"{k}.jpg"), shape("nut", L_SHAPE))
    more = source.val()
    assert more is not None
    assert before[1] <= names(more)
    assert before[0] <= names(source.train())
    truth = val.ground_truth()
    assert {image["file_name"] for image in truth["images"]} == before[1]
    assert len(truth["annotations"]) == len(val)


def test_versions_of_one_image_stay_together(picture: Callable[..., Path]) -> None:
    for k in range(8):
        for version in "abc":
            describe(picture(f"{k}_jpg.rf.{version}0.jpg"), shape("nut", L_SHAPE))
    source = FolderSource(str(picture("0_jpg.rf.a0.jpg").parent), val_share=0.5)
    val = source.val()
    assert val is not None
    sides = [{name.partition(".rf.")[0] for name in names(dataset)} for dataset in (source.train(), val)]
    assert not sides[0] & sides[1]
    assert sides[0]
    assert sides[1]


def test_either_side_gets_an_image_and_one_image_cannot_be_divided(picture: Callable[..., Path]) -> None:
    root = picture("a.jpg").parent
    describe(root / "a.jpg", shape("nut", L_SHAPE))
    with pytest.raises(
        UserError, match=r"holds a single image, which cannot be divided: set data\.val_share=0"
    ):
        FolderSource(str(root)).train()
    assert FolderSource(str(root), val_share=0).val() is None
    describe(picture("b.jpg"), shape("nut", L_SHAPE))
    for share in (0.001, 0.999):
        source = FolderSource(str(root), val_share=share)
        val = source.val()
        assert val is not None
        assert (len(source.train()), len(val)) == (1, 1)


def test_wrong_folders_are_answered_with_one_sentence(tmp_path: Path, picture: Callable[..., Path]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "export.zip").write_bytes(b"PK")
    picture("a.jpg")
    (tmp_path / "data" / "notes.md").write_text("none")
    for root, words in (
        (None, r"data=folder needs data\.root=DIR"),
        (tmp_path / "none", r"there is no folder data\.root=.*none$"),
        (
            tmp_path / "empty",
            r"the folder data\.root=.*empty is empty; expected images and their annotations",
        ),
        (tmp_path / "export.zip", r"export\.zip is a file: unpack it, and name the folder that it makes"),
        (
            tmp_path / "data",
            r"no annotations of a known format, but 1 file \.jpg, 1 file \.md; data\.format= can be\n",
        ),
    ):
        with pytest.raises(UserError, match=words):
            FolderSource(None if root is None else str(root)).train()


def test_two_formats_are_refused_until_one_is_chosen(many: Path) -> None:
    (many / "labels").mkdir()
    (many / "labels" / "00.txt").write_text("0 0.5 0.5 0.5 0.5")
    with pytest.raises(UserError, match=r"several formats, YOLO labels and LabelMe: .* data\.format=yolo or"):
        everything(many)
    check(read(everything(many, format="labelme"))["00.jpg"], ("nut", l_shape()))
    with pytest.raises(UserError, match=r"data\.format=coc is unknown; there are coco, yolo, voc, labelme"):
        everything(many, format="coc")
    with pytest.raises(UserError, match=r"is no VGG Image Annotator \(VIA 2\); expected one json of VIA"):
        everything(many, format="via")


def test_images_outside_of_the_parts_and_missing_parts_are_named(
    many: Path, picture: Callable[..., Path]
) -> None:
    describe(picture("train/x.jpg"), shape("nut", L_SHAPE))
    with pytest.raises(
        UserError, match=r"has the splits train, and 30 images outside of them \(00\.jpg, \.\.\.\)"
    ):
        everything(many)
    with pytest.raises(UserError, match=r"has no split 'fold2'; it has train: data\.train_split="):
        FolderSource(str(many / "train"), val_share=0, train_split="train", val_split="fold2").val()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"),
        ("Valid", "val"),
        ("val2017", "val"),
        ("instances_train2017", "train"),
        ("test-images", "test"),
        ("trainval", None),
        ("constraint", None),
        ("train_val", None),
        ("images", None),
    ],
)
def test_the_part_that_a_name_means(name: str, part: str | None) -> None:
    assert part_called(name) == part


def test_links_that_lead_back_are_followed_once(many: Path) -> None:
    (many / "again").symlink_to(many)
    assert len(everything(many)) == 30


def test_the_config_lists_this_projects_formats_and_their_settings() -> None:
    listed = yaml.safe_load((Path(__file__).parents[3] / "configs/data/folder.yaml").read_text())["formats"]
    assert list(listed) == list(FORMATS)
    for name, node in listed.items():
        known = FORMATS[name]
        assert isinstance(known, Format)
        assert node.pop("_target_") == f"{type(known).__module__}.{type(known).__name__}"
        fields = type(known).__dataclass_fields__  # type: ignore[attr-defined]
        assert node == {field: fields[field].default for field in fields if field not in ("title", "layout")}


class OneSquare:
    """A format of a user's own: files NAME.square with the left, top and side of a square in NAME.jpg."""

    title, layout = "squares", "NAME.square next to NAME.jpg"

    def recognises(self, folder: Folder) -> bool:
        return bool(folder.ending(".square"))

    def read(self, folder: Folder) -> dict[str, Part]:
        images, annotations = [], []
        for k, path in enumerate(folder.ending(".square"), 1):
            x, y, side = json.loads(path.read_text())
            images.append({"id": k, "file_name": f"{path.stem}.jpg", "height": 40, "width": 60})
            annotations.append({"id": k, "image_id": k, "category_id": 1, "bbox": [x, y, side, side]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        return {"all": Part(folder.root, content)}


def test_a_format_of_ones_own_is_registered_as_the_others_are(picture: Callable[..., Path]) -> None:
    root = picture("a.jpg").parent
    (root / "a.square").write_text("[3, 4, 5]")
    dataset = everything(root, formats={**FORMATS, "mine": OneSquare()})
    assert read(dataset) == {"a.jpg": [("square", [3, 4, 8, 9])]}
