"""Values written otherwise than COCO's: read as what they mean and counted; doubtful ones are named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.cli import check_data
from maskrcnn.data.check import check_coco
from maskrcnn.data.clean import cleaned
from maskrcnn.data.defects import Kind
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.formats.coco_json import load_annotations
from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import evaluate, per_class

from .conftest import annotation
from .test_damaged_input import change, damaged, image

Content = dict[str, Any]
Write = Callable[..., Any]
SQUARE = [5.0, 6.0, 25.0, 6.0, 25.0, 16.0, 5.0, 16.0]  # the default annotation's polygon
MASK = np.zeros((40, 60), np.uint8, order="F")
MASK[6:16, 5:25] = 1
PAIRS = [SQUARE[k : k + 2] for k in range(0, 8, 2)]


def all_ids(change: Callable[[int], Any]) -> Callable[[Content], None]:
    def damage(data: Content) -> None:
        for entry in data["images"]:
            entry["id"] = change(entry["id"])
        for entry in data["annotations"]:
            entry["image_id"] = change(entry["image_id"])

    return damage


CONVERTED: dict[str, tuple[Callable[[Content], None], Kind]] = {
    "ids of annotations as texts": (change(image_id="1", category_id="3"), Kind.READ_AS_NUMBER),
    "ids of images as texts": (all_ids(str), Kind.READ_AS_NUMBER),
    "ids of images as a table writes them": (all_ids(lambda value: f"{value}.0"), Kind.READ_AS_NUMBER),
    "ids with a decimal point": (all_ids(float), Kind.READ_AS_NUMBER),
    "box of texts": (change(bbox=["5", "6", "20", "10"]), Kind.READ_AS_NUMBER),
    "area as a text": (change(area="200"), Kind.READ_AS_NUMBER),
    "signed area": (change(area=-200), Kind.AREA),
    "area of zero": (change(area=0), Kind.AREA),
    "area beyond its box": (change(area=1e9), Kind.AREA),
    "size as texts": (image(height="40", width="60"), Kind.READ_AS_NUMBER),
    "flat polygon": (change(segmentation=SQUARE), Kind.ONE_POLYGON),
    "corners as pairs": (change(segmentation=PAIRS), Kind.ONE_POLYGON),
    "list of corners as pairs": (change(segmentation=[PAIRS]), Kind.ONE_POLYGON),
    "a list too many": (change(segmentation=[[SQUARE]]), Kind.ONE_POLYGON),
    "corners as objects": (change(segmentation=[{"x": x, "y": y} for x, y in PAIRS]), Kind.ONE_POLYGON),
    "list of corners as objects": (
        change(segmentation=[[{"x": x, "y": y} for x, y in PAIRS]]),
        Kind.ONE_POLYGON,
    ),
    "polygon of texts": (change(segmentation=[[str(v) for v in SQUARE]]), Kind.ONE_POLYGON),
    "RLE in a list": (
        change(segmentation=[{"size": [40, 60], "counts": [206] + [10, 30] * 19 + [10, 1424]}]),
        Kind.ONE_POLYGON,
    ),
    "RLE as Python's text of bytes": (
        change(segmentation={"size": [40, 60], "counts": str(coco_mask.encode(MASK)["counts"])}),
        Kind.RLE_BYTES,
    ),
    "polygon as a text of a list": (change(segmentation=json.dumps([SQUARE])), Kind.OTHERWISE),
    "box as a text of a list": (change(bbox="[5, 6, 20, 10]"), Kind.OTHERWISE),
    "box as an object": (change(bbox={"x": 5, "y": 6, "width": 20, "height": 10}), Kind.OTHERWISE),
    "box in a list": (change(bbox=[[5, 6, 20, 10]]), Kind.OTHERWISE),
    "crowd as a word": (change(iscrowd="False"), Kind.OTHERWISE),
    "image by its file name": (change(image_id="1.png"), Kind.BY_NAME),
    "category by its name": (change(category_id="dog"), Kind.BY_NAME),
    "rotated box of centre, size and angle": (change(bbox=[15, 11, 20, 10, 0.5]), Kind.ROTATED_AND_MASK),
    "rotated box of four corners": (change(bbox=SQUARE), Kind.ROTATED_AND_MASK),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_what_has_one_meaning_is_read_as_it_and_counted(write_coco: Write, kind: str) -> None:
    damage, expected = CONVERTED[kind]
    path, folder = damaged(write_coco, damage)
    dataset = CocoDataset(path, folder)
    assert len(dataset.report) >= 1
    data = load_annotations(path)
    findings, _ = check_coco(data, folder)
    assert {defect.kind for defect in findings.defects} == {expected}
    example = dataset.read(0)
    np.testing.assert_array_equal(example.boxes, [[5, 6, 25, 16]])
    assert example.image_id == 1
    (mask,) = example.masks
    assert mask is not None
    assert (mask.x0, mask.y0, mask.bits.shape, int(mask.bits.sum())) == (5, 6, (10, 20), 200)
    assert dataset.ground_truth()["annotations"][0]["area"] == 200
    again, _ = check_coco(cleaned(data, folder).content, folder)
    assert again.defects == []


@pytest.mark.parametrize("first", [7706992903151817196, 2**53])
def test_whole_ids_within_64_bits_work(write_coco: Write, first: int) -> None:
    path, folder = damaged(write_coco, all_ids(lambda number: first + number))
    dataset = CocoDataset(path, folder)
    assert [dataset.image_id(k) for k in range(3)] == [first + 1, first + 2, first + 3]
    truth = dataset.ground_truth()
    found = [{**entry, "score": 0.9} for entry in truth["annotations"]]
    assert evaluate(found, truth, ("bbox",))["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    "change_id", [lambda k: f"img_{k}", lambda k: 2**63 + 977 * k, lambda k: 2**127 + k, lambda k: -k]
)
def test_ids_that_are_no_such_numbers_are_numbered_by_fix(
    write_coco: Write, change_id: Callable[[int], Any]
) -> None:
    path, folder = damaged(write_coco, all_ids(change_id))
    with pytest.raises(
        UserError, match=r"3 x no whole number from 0 to 2\^63 - 1 as id .entry 0 of images.*--fix"
    ):
        CocoDataset(path, folder)
    content = cleaned(load_annotations(path), folder).content
    names = {entry["id"]: entry["file_name"] for entry in content["images"]}
    assert [names[entry["image_id"]] for entry in content["annotations"]] == ["1.png", "2.png", "3.png"]
    assert [entry["category_id"] for entry in content["annotations"]] == [3, 7, 3]


def test_ids_equal_after_conversion_are_equal(write_coco: Write) -> None:
    path, folder = damaged(write_coco, lambda d: d["images"][1].update(id="1"))
    with pytest.raises(UserError, match=r"image 1 .2.png..*give each image its own"):
        CocoDataset(path, folder)


def test_objects_of_an_id_that_stands_twice_are_left_out_and_not_assigned(write_coco: Write) -> None:
    """Image 2's entry gets id 1: whose object 1 is cannot be known, object 2's image is gone, object 3 stays."""
    path, folder = damaged(write_coco, lambda d: d["images"][1].update(id=1))
    result = cleaned(load_annotations(path), folder)
    assert [entry["file_name"] for entry in result.content["images"]] == ["3.png"]
    assert [entry["id"] for entry in result.content["annotations"]] == [3]


def test_an_image_entry_that_is_listed_twice_alike_is_kept_once(write_coco: Write) -> None:
    path, folder = damaged(write_coco, lambda d: d["images"].append(dict(d["images"][0])))
    content = cleaned(load_annotations(path), folder).content
    assert [entry["id"] for entry in content["images"]] == [1, 2, 3]
    assert len(content["annotations"]) == 3


def test_objects_of_a_category_id_that_stands_twice_are_left_out(write_coco: Write) -> None:
    path, folder = damaged(write_coco, lambda d: d["categories"].append({"id": 3, "name": "ship"}))
    content = cleaned(load_annotations(path), folder).content
    assert [entry["category_id"] for entry in content["annotations"]] == [7]


def test_fix_prints_what_it_did_and_kept(write_coco: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = damaged(write_coco, change(category_id=99))
    with pytest.raises(SystemExit):
        check_data.main([f"annotations={path}", f"images={folder}", "--fix"])
    printed = capsys.readouterr().out
    assert "kept 3 of 3 images and 2 of 3 annotations" in printed
    assert "--fix dropped 1 x its category 99 is not listed" in printed
    check_data.main([f"annotations={path.with_name('annotations_fixed.json')}", f"images={folder}"])


APART: dict[str, dict[str, Any]] = {
    "corners for width and height": {
        "bbox": [20, 15, 26, 20],
        "segmentation": [[20, 15, 26, 15, 26, 20, 20, 20]],
    },
    "polygon of a smaller image": {
        "bbox": [30, 20, 6, 5],
        "segmentation": [[15, 10, 21, 10, 21, 15, 15, 15]],
    },
    "y, x, h, w": {"bbox": [4, 30, 5, 6], "segmentation": [[30, 4, 36, 4, 36, 9, 30, 9]]},
}


@pytest.mark.parametrize("kind", APART)
def test_boxes_and_masks_that_do_not_belong_together_are_named(write_coco: Write, kind: str) -> None:
    path, folder = damaged(write_coco, change(**APART[kind], area=30))
    (line,) = CocoDataset(path, folder).report
    assert "1 x its box and its mask do not match (annotation 1 of image 1)" in line
    data = load_annotations(path)
    assert {d.kind for d in check_coco(data, folder)[0].defects} == {Kind.BOX_AND_MASK}
    assert [a["id"] for a in cleaned(data, folder).content["annotations"]] == [2, 3]


def test_a_box_whose_mask_is_empty_stays_a_box(write_coco: Write) -> None:
    path, folder = damaged(write_coco, change(segmentation={"size": [40, 60], "counts": [2400]}))
    entry = cleaned(load_annotations(path), folder).content["annotations"][0]
    assert (entry["bbox"], "segmentation" in entry, entry["area"]) == ([5, 6, 20, 10], False, 200)
    assert CocoDataset(path, folder).read(0).masks == [None]


def scaled(box_only: bool, x: float, y: float) -> Callable[[Content], None]:
    def damage(data: Content) -> None:
        for entry in data["annotations"]:
            entry["bbox"] = [v * s for v, s in zip(entry["bbox"], (x, y) * 2, strict=True)]
            if not box_only:
                entry["segmentation"] = [
                    [v * s for v, s in zip(entry["segmentation"][0], (x, y) * 4, strict=True)]
                ]

    return damage


@pytest.mark.parametrize("box_only", [False, True])
def test_shares_of_the_image_are_refused(write_coco: Write, box_only: bool) -> None:
    path, folder = damaged(write_coco, scaled(box_only, 1 / 60, 1 / 40))
    with pytest.raises(UserError, match=r"all boxes lie within 0..1: shares of the image"):
        CocoDataset(path, folder)
    with pytest.raises(UserError, match=r"shares of the image|none of 3 annotations"):
        cleaned(load_annotations(path), folder)


def test_percent_of_the_image_are_named(write_coco: Write) -> None:
    path, folder = write_coco([annotation(1)], sizes=((300, 400),))
    (line,) = CocoDataset(path, folder).report
    assert "all boxes and masks lie within 0..100" in line
    assert "300 pixels and more" in line


def test_crowds_that_look_like_single_objects_are_named_and_made_objects(
    write_coco: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = write_coco([annotation(1, iscrowd=1), annotation(2, image_id=2, iscrowd="1")])
    assert any("2 of 2 objects are marked iscrowd=1" in line for line in CocoDataset(path, folder).report)
    check_data.main([f"annotations={path}", f"images={folder}", "--fix", "crowds=objects"])
    assert "--fix converted 2 x iscrowd=1, written as 0" in capsys.readouterr().out
    assert CocoDataset(path.with_name("annotations_fixed.json"), folder).num_crowds == 0


def test_other_values_of_iscrowd_stop(write_coco: Write) -> None:
    path, folder = damaged(write_coco, change(iscrowd="no"))
    with pytest.raises(UserError, match=r"iscrowd='no', which is neither 0 nor 1 .annotation 1 of image 1"):
        CocoDataset(path, folder)


@pytest.mark.parametrize(("height", "width"), [(-1, -1), (None, 60), (60, 40)])
def test_sizes_are_the_files(write_coco: Write, height: int | None, width: int) -> None:
    """Missing ones, and exchanged ones where all boxes lie within the file."""
    path, folder = damaged(write_coco, image(height=height, width=width))
    content = cleaned(load_annotations(path), folder).content
    assert [(i["height"], i["width"]) for i in content["images"]] == [(40, 60), (60, 40), (48, 48)]
    assert len(content["annotations"]) == 3


def test_a_size_that_does_not_hold_the_boxes_is_not_taken(write_coco: Write) -> None:
    path, folder = write_coco([annotation(1, bbox=[5, 42, 20, 10]), annotation(2, image_id=2)])
    data = load_annotations(path)
    data["images"][0].update(height=60, width=40)
    content = cleaned(data, folder).content
    assert [i["id"] for i in content["images"]] == [2, 3]


def test_both_classes_of_one_name_have_a_row(write_coco: Write) -> None:
    names = [{"id": 3, "name": "thing"}, {"id": 7, "name": "thing"}]
    path, folder = write_coco([annotation(1), annotation(2, image_id=2, category_id=7)], categories=names)
    dataset = CocoDataset(path, folder)
    assert (
        "another category has the same name 'thing', except for capitals and spaces (category 7)"
        in dataset.report[0]
    )
    truth = dataset.ground_truth()
    found = [{**entry, "score": 0.9} for entry in truth["annotations"][:1]]
    assert {k: v["AP"] for k, v in per_class(found, truth, "bbox").items()} == pytest.approx(
        {"thing (3)": 100, "thing (7)": 0}
    )


def test_the_class_that_roboflow_adds_is_named(write_coco: Write) -> None:
    root = {"id": 0, "name": "shapes", "supercategory": "none"}
    names = [root, *({"id": k, "name": str(k), "supercategory": "shapes"} for k in (3, 7))]
    path, folder = write_coco([annotation(1), annotation(2, category_id=7)], categories=names)
    (line,) = CocoDataset(path, folder).report
    assert (
        "a class without objects whose name 'shapes' is the supercategory of all others (category 0)" in line
    )


def test_a_picture_listed_twice_is_named(write_coco: Write) -> None:
    path, folder = damaged(write_coco, lambda d: d["images"].append({**d["images"][0], "id": 9}))
    (line,) = CocoDataset(path, folder).report
    assert "1 x its file is listed for another image too (image 9)" in line


def test_classes_of_another_file_are_taken_by_name(write_coco: Write, tmp_path: Path) -> None:
    path, folder = write_coco([annotation(1), annotation(2, category_id=7)])
    data = load_annotations(path)
    data["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    check_data.main([f"annotations={path}", f"images={folder}", "--fix", f"classes={other}"])
    content = json.loads(path.with_name("annotations_fixed.json").read_text())
    assert content["categories"] == data["categories"]
    assert [a["category_id"] for a in content["annotations"]] == [7, 3]  # a dog, a cat


def test_sixteen_bits_of_which_few_are_used_are_named_at_the_start(write_coco: Write) -> None:
    path, folder = write_coco([annotation(1)])
    cv2.imwrite(str(folder / "1.png"), np.full((40, 60), 3000, np.uint16))
    (line,) = CocoDataset(path, folder).report
    assert "16 bits of which few are used" in line
    assert "at most 3000" in line


def test_an_object_listed_twice_under_two_ids_is_named_and_dropped_by_fix(write_coco: Write) -> None:
    """Another object of the same box is none: its mask or class differs."""
    other = [[5, 6, 25, 6, 25, 16]]
    path, folder = write_coco(
        [
            annotation(1),
            annotation(2),
            annotation(3, category_id=7),
            annotation(4, segmentation=other, area=100),
        ]
    )
    (line,) = CocoDataset(path, folder).report
    assert "1 x the same object as another annotation's (annotation 2 of image 1)" in line
    assert [a["id"] for a in cleaned(load_annotations(path), folder).content["annotations"]] == [1, 3, 4]


def test_a_rotated_box_without_a_mask_is_dropped_and_counted(write_coco: Write) -> None:
    path, folder = damaged(write_coco, change(bbox=[15, 11, 20, 10, 30.0], segmentation=...))
    dataset = CocoDataset(path, folder)
    assert dataset.num_objects.tolist() == [0, 1, 1]
    assert "1 x a rotated box of 5 numbers, dropped (annotation 1 of image 1)" in dataset.report[0]


@pytest.mark.parametrize(
    ("angle", "kinds"), [(30.0, {Kind.ROTATION}), (180.0, set()), (0, set()), ("x", set())]
)
def test_a_box_that_its_attributes_turn_is_named_and_dropped_by_fix(
    write_coco: Write, angle: Any, kinds: set[Kind]
) -> None:
    path, folder = damaged(write_coco, change(segmentation=..., attributes={"rotation": angle}))
    data = load_annotations(path)
    assert {defect.kind for defect in check_coco(data, folder)[0].defects} == kinds
    kept = [entry["id"] for entry in cleaned(data, folder).content["annotations"]]
    assert kept == ([2, 3] if kinds else [1, 2, 3])


def test_a_name_that_two_images_have_is_no_id(write_coco: Write) -> None:
    def damage(data: Content) -> None:
        data["images"][1]["file_name"] = "1.png"
        data["annotations"][0]["image_id"] = "1.png"

    path, folder = damaged(write_coco, damage)
    with pytest.raises(UserError, match=r"1 x it belongs to image '1.png', which is not listed"):
        CocoDataset(path, folder)


def test_names_that_differ_in_capitals_and_spaces_are_named(write_coco: Write) -> None:
    path, folder = damaged(write_coco, lambda d: d["categories"][1].update(name=" Cat"))
    assert (
        "the same name 'cat', except for capitals and spaces (category 7)"
        in CocoDataset(path, folder).report[0]
    )


@pytest.mark.parametrize("key", ["coco_url", "path"])
def test_other_keys_name_the_file(write_coco: Write, key: str) -> None:
    path, folder = damaged(write_coco, image(file_name=..., **{key: "http://host/val2017/1.png?v=2"}))
    dataset = CocoDataset(path, folder)
    assert dataset.image_info(0)[0] == "1.png"
    assert "found under another name" in dataset.report[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"{}", mtime=0), "packed .gzip or zip.: unpack it"),
        (b'{"id": 1}\n{"id": 2}', "holds several values"),
        (b"{'id': 1}", "double quotes around names"),
        (b'{"id": 1,}', "no comma after the last entry"),
        ('{"name": "K\u00e4fer"}'.encode("latin-1"), "not UTF-8: save it as such"),
    ],
)
def test_what_a_file_may_be_instead_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        CocoDataset(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_windows_are_read(write_coco: Write, encoding: str) -> None:
    path, folder = write_coco([annotation(1)])
    path.write_text(path.read_text(), encoding=encoding)
    assert CocoDataset(path, folder).num_objects.tolist() == [1, 0, 0]
