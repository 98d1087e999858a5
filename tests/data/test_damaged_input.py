"""The table of damaged input: each kind ends in its message, or is passed over and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.check import check_coco, check_voc
from maskrcnn.data.clean import cleaned
from maskrcnn.data.formats.coco import CocoDataset, CocoLayout, CustomCoco
from maskrcnn.data.formats.coco_json import load_annotations, select
from maskrcnn.data.formats.voc import VocDataset
from maskrcnn.data.segmentation import compressed
from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import evaluate
from maskrcnn.prediction.draw import draw_results

from . import test_download, test_sbd
from .conftest import annotation

Content = dict[str, Any]
Write = Callable[..., Any]
FAR = 1e9


def sound() -> list[dict[str, Any]]:
    return [annotation(1), annotation(2, image_id=2, category_id=7), annotation(3, image_id=3)]


def change(number: int = 1, **changes: Any) -> Callable[[Content], None]:
    """Changes annotation ``number``; a value of ... removes the key."""

    def damage(data: Content) -> None:
        entry = next(entry for entry in data["annotations"] if entry["id"] == number)
        entry.update(changes)
        for key in [key for key, value in entry.items() if value is ...]:
            del entry[key]

    return damage


def image(**changes: Any) -> Callable[[Content], None]:
    def damage(data: Content) -> None:
        data["images"][0].update(changes)
        for key in [key for key, value in changes.items() if value is ...]:
            del data["images"][0][key]

    return damage


def twice(key: str) -> Callable[[Content], None]:
    return lambda data: data[key].append(dict(data[key][0]))


RLE = {"size": [40, 60], "counts": [2400]}

# What is damaged in the json, and the words that training stops with.
STOPS: dict[str, tuple[Callable[[Content], None], str]] = {
    "no images list": (lambda d: d.pop("images"), "no list 'images'"),
    "no categories list": (lambda d: d.pop("categories"), "no list 'categories'"),
    "annotations is no list": (lambda d: d.update(annotations={}), "no list 'annotations'"),
    "no image": (lambda d: d.update(images=[], annotations=[]), "lists no image"),
    "no category": (lambda d: d.update(categories=[], annotations=[]), "no category .*list the classes"),
    "category without id": (lambda d: d["categories"].append({"name": "x"}), "entry 2 of categories"),
    "category twice": (twice("categories"), "category 7.*give each category its own"),
    "category with a number as keypoints": (
        lambda d: d["categories"][0].update(keypoints=17),
        "keypoints that are no list of names .category 7",
    ),
    "image twice": (twice("images"), "image 1.*give each image its own"),
    "image without id": (image(id=...), "entry 0 of images"),
    "image with a text as id": (image(id="one"), "entry 0 of images"),
    "image without file_name": (image(file_name=...), "no file_name .image 1"),
    "image without height": (image(height=...), "no positive whole height and width .image 1"),
    "image of width 0": (image(width=0), "no positive whole height and width .image 1"),
    "image file missing": (image(file_name="gone.png"), r"its file is missing in .*gone\.png.*add the file"),
    "annotation twice": (twice("annotations"), "occurs twice in annotations .annotation 1"),
    "annotation without id": (lambda d: d["annotations"].append({"image_id": 1}), "entry 3 of annotations"),
    "annotation is a number": (lambda d: d["annotations"].append(5), "entry 3 of annotations"),
    "unknown image": (change(image_id=99), "belongs to image 99, which is not listed .annotation 1"),
    "unknown category": (change(category_id=5), "category 5 is not listed .annotation 1"),
    "list as image": (change(image_id=[1]), r"belongs to image \[1\]"),
    "RLE of another size": (
        change(segmentation={**RLE, "size": [60, 40]}),
        r"RLE has the size \[60, 40\], the image",
    ),
    "RLE without counts": (
        change(segmentation={"size": [40, 60]}),
        "RLE has no counts .annotation 1 of image 1",
    ),
    "RLE too short": (
        change(segmentation={**RLE, "counts": [9]}),
        "describes 9 pixels.*annotation 1 of image 1",
    ),
    "RLE string damaged": (
        change(segmentation={**RLE, "counts": "~~~"}),
        "damaged .annotation 1 of image 1",
    ),
}


def keypoints(points: Any) -> Callable[[Content], None]:
    """Category 3 gets two keypoints, annotation 1 these numbers."""

    def damage(data: Content) -> None:
        next(c for c in data["categories"] if c["id"] == 3)["keypoints"] = ["left_ear", "right_ear"]
        data["annotations"][0]["keypoints"] = points

    return damage


# What is damaged in the json, and the words of the report that training goes on with.
SKIPS: dict[str, tuple[Callable[[Content], None], str]] = {
    "keypoints in pairs": (keypoints([1, 2, 3, 4]), "1 x keypoints that are not a list of x, y, visibility"),
    "keypoints of texts": (keypoints(["1", 2, 2]), "1 x keypoints that are not a list"),
    "keypoint not finite": (
        keypoints([1, 2, 2, float("nan"), 4, 2]),
        "1 x keypoints with a coordinate that is",
    ),
    "keypoint of visibility 3": (keypoints([1, 2, 3, 3, 4, 2]), "a visibility other than 0, 1, 2"),
    "keypoint far outside": (
        keypoints([1, 2, 2, 1e39, 4, 2]),
        "1 x keypoints far outside of any image, ignored",
    ),
    "one keypoint of two": (keypoints([1, 2, 2]), "1 x 1 keypoints, but its category 3 lists 2, ignored"),
    "box of width 0": (change(bbox=[5, 5, 0, 4]), "1 x a box of zero or negative size, dropped"),
    "box of negative height": (change(bbox=[5, 5, 4, -4]), "1 x a box of zero or negative size, dropped"),
    "box not finite": (change(bbox=[5, float("nan"), 4, 4]), "1 x a bbox with a number that is not finite"),
    "box of three numbers": (change(bbox=[5, 5, 4]), "1 x a bbox that is not four numbers"),
    "box of texts": (change(bbox=["five", 5, 4, 4]), "1 x a bbox that is not four numbers"),
    "box outside": (change(bbox=[70, 5, 4, 4]), "1 x a box outside of its image, dropped"),
    "box by its corners": (change(bbox=[30, 20, 58, 38]), "1 x a box that extends beyond its image, clipped"),
    "no box, no mask": (change(bbox=..., segmentation=...), "1 x a bbox that is not four numbers"),
    "polygon of two corners": (
        change(segmentation=[[1, 2, 3, 4]]),
        "1 x a polygon of fewer than six numbers",
    ),
    "polygon of odd length": (change(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "or of an odd number"),
    "polygon far outside": (change(segmentation=[[1, 2, 3, 4, FAR, 6]]), "1 x a polygon far outside"),
    "polygon not finite": (
        change(segmentation=[[1, 2, 3, 4, float("inf"), 6]]),
        "1 x a polygon with a number",
    ),
    "mask is a text": (
        change(segmentation="mask.png"),
        "1 x its segmentation is a str, neither polygons nor RLE",
    ),
    "id 0": (change(id=0), "1 x the id 0, which pycocotools takes for no match"),
}


def damaged(write: Write, damage: Callable[[Content], None]) -> tuple[Path, Path]:
    path, folder = write(sound())
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    return path, folder


def read_all(path: Path, folder: Path) -> CocoDataset:
    dataset = CocoDataset(path, folder)
    for index in range(len(dataset)):
        dataset.read(index)
    return dataset


def test_the_undamaged_set_has_no_defect(write_coco: Write) -> None:
    path, folder = write_coco(sound())
    assert read_all(path, folder).report == []
    assert check_coco(load_annotations(path), folder)[0].defects == []


@pytest.mark.parametrize("kind", STOPS)
def test_a_damaged_json_stops_in_words(write_coco: Write, kind: str) -> None:
    damage, words = STOPS[kind]
    path, folder = damaged(write_coco, damage)
    with pytest.raises(UserError, match=words):
        read_all(path, folder)


@pytest.mark.parametrize("kind", SKIPS)
def test_what_is_passed_over_is_counted_and_reported(write_coco: Write, kind: str) -> None:
    damage, words = SKIPS[kind]
    path, folder = damaged(write_coco, damage)
    dataset = read_all(path, folder)
    assert len(dataset.report) == 1
    assert words in dataset.report[0]
    assert str(path) in dataset.report[0]
    assert len(dataset) == 3
    dropped = "dropped" in dataset.report[0]
    assert dataset.num_objects.tolist() == [0 if dropped else 1, 1, 1]


LACKS: dict[str, Callable[[Content], None]] = {
    "no box": change(bbox=...),
    "box is null": change(bbox=None),
    "no box, mask as RLE": change(
        bbox=..., segmentation={"size": [40, 60], "counts": [400, 30, 10, 30, 1930]}
    ),
    "no mask": change(segmentation=...),
    "empty mask": change(segmentation=[]),
    "crowd is null": change(iscrowd=None),
    "no area, no crowd": change(area=..., iscrowd=...),
    "empty polygon": change(segmentation=[[]]),
}


@pytest.mark.parametrize("kind", [*SKIPS, *LACKS])
def test_what_is_passed_over_or_lacks_is_scored_and_drawn_all_the_same(write_coco: Write, kind: str) -> None:
    """What is trained on, given as predictions, is found whole: by the data set's own truth, and by the file's."""
    path, folder = damaged(write_coco, LACKS.get(kind) or SKIPS[kind][0])
    dataset = CocoDataset(path, folder)
    truth = dataset.ground_truth()
    assert len(truth["annotations"]) == int(dataset.num_objects.sum())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    found = []
    for entry in truth["annotations"]:
        x, y, w, h = entry["bbox"]
        outline = entry.get("segmentation") or [[x, y, x + w, y, x + w, y + h, x, y + h]]
        mask = compressed(outline, *sizes[entry["image_id"]])
        found.append(
            {
                **{key: entry[key] for key in ("image_id", "category_id", "bbox")},
                "segmentation": {**mask, "counts": mask["counts"].decode()},
                "score": 0.9,
            }
        )
    for given in (truth, path):
        metrics = evaluate(found, given, ("bbox", "segm"))
        assert [metrics[k]["AP"] for k in ("bbox", "segm")] == pytest.approx([100, 100])
    names = {c["id"]: c["name"] for c in dataset.categories}
    for index in range(len(dataset)):
        own = [a for a in truth["annotations"] if a["image_id"] == dataset.image_id(index)]
        image = dataset.read(index).image
        assert (draw_results(image, own, names) != image).any() == bool(own)


@pytest.mark.parametrize("kind", [*STOPS, *SKIPS])
def test_the_check_finds_it_and_the_cleaned_file_is_sound(write_coco: Write, kind: str) -> None:
    damage = (STOPS | SKIPS)[kind][0]
    path, folder = damaged(write_coco, damage)
    try:
        data = load_annotations(path)
    except UserError:
        assert "list" in kind
        return
    if kind != "no image":
        assert check_coco(data, folder)[0].defects
    if kind == "no image":
        with pytest.raises(UserError, match="--fix would leave none of 0 images"):
            cleaned(data, folder)
        return
    if kind == "no category":
        with pytest.raises(UserError, match="--fix cannot repair this: categories: no category"):
            cleaned(data, folder)
        return
    content = cleaned(data, folder).content
    again, _ = check_coco(content, folder)
    assert again.defects == []
    kept = len(content["annotations"])
    assert kept >= 1
    if kind in ("image without height", "annotation twice", "id 0"):
        assert kept >= 3  # mended, not left out


TEXTS = {
    "empty file": (b"", "not valid json"),
    "truncated": (b'{"images": [{"id": 1', "not valid json .*truncated"),
    "not text": (b"\xff\xfe\x00\x80", "not valid json"),
    "a list of results": (b'[{"image_id": 1}]', "holds a list.*for predictions="),
    "a number": (b"7", "holds a int"),
    "endless nesting": (b"[" * 200_000, "not valid json"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_file_that_is_no_annotation_file(tmp_path: Path, kind: str) -> None:
    content, words = TEXTS[kind]
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        CocoDataset(path, tmp_path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders(write_coco: Write, tmp_path: Path) -> None:
    path, _ = write_coco(sound())
    for make, words in (
        (lambda: CocoDataset(tmp_path / "no.json", tmp_path), r"there is no file .*no\.json"),
        (lambda: CocoDataset(tmp_path, tmp_path), "cannot be opened: Is a directory"),
        (lambda: CocoDataset(path, tmp_path / "none"), "there is no images folder .*none"),
        (lambda: CocoLayout(None).train(), r"needs data\.root=DIR"),
        (
            lambda: CocoLayout(str(tmp_path)).val(),
            r"not COCO's layout: expected the file .*instances_val2017\.json",
        ),
        (lambda: CustomCoco(None, None, None, None).train(), r"needs data\.train_annotations="),
        (lambda: CustomCoco("a", None, None, None).train(), r"needs data\.train_images="),
        (lambda: CustomCoco(None, None, "a", None).val(), r"needs data\.val_images="),
        (lambda: CocoDataset(path, tmp_path / "images", "maybe"), "on_corrupt_image='maybe'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=words):
            make()


def test_a_cleaned_file_without_any_image_is_refused(write_coco: Write, tmp_path: Path) -> None:
    """As with the wrong folder of images."""
    path, _ = write_coco(sound())
    (tmp_path / "other").mkdir()
    with pytest.raises(
        UserError, match=r"none of 3 images; the first defect: image 1 \(1\.png\): its file is missing"
    ):
        cleaned(load_annotations(path), tmp_path / "other")


def test_names_with_backslashes_are_found(write_coco: Write) -> None:
    path, folder = write_coco(sound())
    (folder / "sub").mkdir()
    (folder / "1.png").rename(folder / "sub" / "1.png")
    (folder / "2.png").rename(folder / "a\\2.png")  # a name of its own outside of Windows
    data = json.loads(path.read_text())
    for place, name in enumerate(("sub\\1.png", "a\\2.png")):
        data["images"][place]["file_name"] = name
    path.write_text(json.dumps(data))
    dataset = read_all(path, folder)
    assert [dataset.image_info(index)[0] for index in range(3)] == ["sub/1.png", "a\\2.png", "3.png"]


def test_a_file_name_is_asked_for_where_images_are_read(write_coco: Write) -> None:
    """Scoring reads none."""
    path, folder = damaged(write_coco, image(file_name=...))
    data = load_annotations(path)
    assert "no file_name" in {defect.words for defect in select(data, folder).defects}
    assert select(data, None).defects == []


@pytest.mark.parametrize(
    ("largest", "depth", "dark"),
    [(4095, 16, True), (16383, 16, True), (16384, 16, False), (60, 8, False)],
)
def test_twelve_bits_in_sixteen_are_a_defect(write_coco: Write, largest: int, depth: int, dark: bool) -> None:
    path, folder = write_coco(sound())
    values = np.linspace(0, largest, 40 * 60).reshape(40, 60).round()
    Image.fromarray(values.astype(f"uint{depth}")).save(folder / "1.png")
    findings, selection = check_coco(load_annotations(path), folder)
    assert [defect.where for defect in findings.defects] == (
        [f"image 1 ({folder / '1.png'}, at most {largest})"] if dark else []
    )
    assert all("almost black" in defect.words and not defect.fatal for defect in findings.defects)
    assert sorted(selection.images) == [1, 2, 3]


def other_size(path: Path) -> None:
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(path)


PICTURES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "damaged, incomplete"),
    "cut off": (lambda p: p.write_bytes(p.read_bytes()[:300]), "damaged, incomplete"),
    "text": (lambda p: p.write_text("<html>404</html>"), "damaged, incomplete"),
    "header only": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "damaged, incomplete"),
    "bytes in the middle lost": (
        lambda p: p.write_bytes(p.read_bytes()[:500] + p.read_bytes()[900:]),
        "damaged",
    ),
    "another size": (other_size, "is 10 x 10 .* annotations say 40 x 60"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_damaged_image_is_named(write_coco: Write, kind: str) -> None:
    damage, words = PICTURES[kind]
    path, folder = write_coco(sound())
    damage(folder / "1.png")
    with pytest.raises(UserError, match=rf"1\.png.*{words}"):
        CocoDataset(path, folder).read(0)
    findings, selection = check_coco(load_annotations(path), folder)
    assert [defect.where for defect in findings.defects] == ["image 1"]
    assert sorted(selection.images) == [2, 3]


def spliced(marker: bytes, begin: int, end: int, new: bytes = b"") -> Callable[[Path], Any]:
    """Bytes ``begin .. end`` after the first ``marker`` of a file replaced by ``new``."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        place = data.index(marker)
        path.write_bytes(data[: place + begin] + new + data[place + end :])

    return damage


FRAME, SCAN, TABLE = b"\xff\xc0", b"\xff\xda", b"\xff\xdb"  # JPEG's markers
JPEGS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "jpeg cut off": (lambda p: p.write_bytes(p.read_bytes()[:-300]), "damaged, incomplete"),
    "jpeg without its first bytes": (lambda p: p.write_bytes(p.read_bytes()[2:]), "damaged, incomplete"),
    "jpeg of headers alone": (lambda p: p.write_bytes(p.read_bytes().split(SCAN)[0]), "damaged, incomplete"),
    "jpeg of height 0": (spliced(FRAME, 5, 7, b"\0\0"), "damaged, incomplete"),
    "jpeg that claims 65535 x 65535": (spliced(FRAME, 5, 9, b"\xff" * 4), "damaged, incomplete"),
    "jpeg of 12 bits": (spliced(FRAME, 4, 5, b"\x0c"), "of an unsupported kind"),
    "jpeg without its tables": (spliced(TABLE, 0, 80), "damaged, incomplete"),
    "jpeg of another size": (other_size, "is 10 x 10 .* annotations say 40 x 60"),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_damaged_jpeg_is_named(write_coco: Write, kind: str) -> None:
    damage, words = JPEGS[kind]
    path, folder = write_coco(sound())
    Image.open(folder / "1.png").save(folder / "1.jpg")
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = "1.jpg"
    path.write_text(json.dumps(data))
    assert CocoDataset(path, folder).read(0).image.shape == (40, 60, 3)
    damage(folder / "1.jpg")
    with pytest.raises(UserError, match=rf"1\.jpg.*{words}"):
        CocoDataset(path, folder).read(0)
    findings, selection = check_coco(load_annotations(path), folder)
    assert [defect.where for defect in findings.defects] == ["image 1"]
    assert sorted(selection.images) == [2, 3]


def rewrite(old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "Annotations" / "000007.xml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return damage


def masks(array: np.ndarray) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(array).save(root / "SegmentationObject" / "000007.png")


def cut_mask(root: Path) -> None:
    path = root / "SegmentationObject" / "000007.png"
    path.write_bytes(path.read_bytes()[:-40])


VOC: dict[str, tuple[Callable[[Path], Any], str]] = {
    "xml missing": (lambda r: (r / "Annotations" / "000007.xml").unlink(), r"000007\.xml is missing"),
    "xml truncated": (rewrite("</annotation>", ""), "not valid xml"),
    "xml without size": (rewrite("size>", "extent>"), "<height> is None, not a number"),
    "width is a text": (rewrite("<width>32", "<width>wide"), "<width> is 'wide', not a number"),
    "size of zero": (rewrite("<width>32", "<width>0"), "24 x 0"),
    "unknown class": (rewrite("<name>dog", "<name>dragon"), "object 1 has the class 'dragon'"),
    "box without a side": (rewrite("<xmin>3</xmin>", ""), "<xmin> is None, not a number"),
    "box of negative size": (rewrite("<xmax>12", "<xmax>1"), "object 1 has a box of negative size"),
    "image missing": (lambda r: (r / "JPEGImages" / "000007.jpg").unlink(), r"000007\.jpg is missing"),
    "mask cut off": (cut_mask, r"mask image .*000007\.png is damaged"),
    "mask of another size": (masks(np.zeros((9, 9), np.uint8)), r"is \(9, 9\), but its xml says \(24, 32\)"),
    "mask in colours": (masks(np.zeros((24, 32, 3), np.uint8)), r"has colours \(RGB\)"),
    "mask of a stranger": (
        masks(np.full((24, 32), 9, np.uint8)),
        r"shows objects \[9\], but its xml lists 2",
    ),
    "empty split": (lambda r: (r / "ImageSets/Segmentation/train.txt").write_text("\n"), "lists no image"),
    "name is no number": (
        lambda r: (r / "ImageSets/Segmentation/train.txt").write_text("cat\n"),
        r"cat\.jpg is miss",
    ),
}


@pytest.mark.parametrize("kind", VOC)
def test_damaged_voc_files_stop_in_words_and_are_found_by_the_check(write_voc: Write, kind: str) -> None:
    damage, words = VOC[kind]
    root = write_voc()
    assert check_voc(root).defects == []
    damage(root)
    with pytest.raises(UserError, match=words):
        VocDataset(root, "train").read(0)
    if kind != "empty split":
        assert len(check_voc(root).defects) == 1


def test_the_tables_hold_every_kind_of_file() -> None:
    """What is damaged, by kind of file; each entry of the tables is a test above or in the modules named."""
    xml = [kind for kind in VOC if kind.startswith(("xml", "width", "size", "unknown", "box"))]
    png = [*PICTURES, *(kind for kind in VOC if kind.startswith("mask"))]
    kinds = {
        "json": [*STOPS, *SKIPS, *TEXTS],
        "xml": xml,
        "png": png,
        "jpeg": [*JPEGS],
        "archive": [*test_download.EVIL],
        "mat": [*test_sbd.DAMAGE],
    }
    assert all(len(set(of_kind)) == len(of_kind) >= 7 for of_kind in kinds.values())
    assert sum(map(len, kinds.values())) >= 90
