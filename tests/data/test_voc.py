"""VOC's files, made here and real."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.check import check_voc
from maskrcnn.data.formats.voc import CLASSES, VocDataset, VocSource
from maskrcnn.errors import UserError
from maskrcnn.evaluation import coco, voc

Write = Callable[..., Path]


def test_boxes_are_made_continuous_and_void_belongs_to_nobody(write_voc: Write) -> None:
    example = VocDataset(write_voc(), "train").read(0)
    assert example.image_id == 7
    np.testing.assert_array_equal(example.boxes, [[2, 1, 12, 11], [14, 4, 30, 20]])
    assert [CLASSES[label] for label in example.labels] == ["dog", "cat"]
    assert example.crowd.tolist() == [False, True]
    first, second = example.masks
    assert first is not None
    assert second is not None
    assert (first.x0, first.y0, first.bits.shape, int(first.bits.sum())) == (4, 3, (6, 6), 36)
    assert (second.x0, second.y0, second.bits.shape, int(second.bits.sum())) == (16, 6, (12, 12), 144)


def test_images_without_masks_have_boxes_alone(write_voc: Write) -> None:
    dataset = VocDataset(write_voc(), "train", "Main")
    assert [dataset.image_id(i) for i in range(2)] == [7, 9]
    assert dataset.read(1).masks == [None, None]
    assert len(VocDataset(dataset.root, "dog_train", "Main")) == 2


def test_ground_truth_scored_as_predictions_is_perfect_by_both_metrics(write_voc: Write) -> None:
    truth = VocDataset(write_voc(), "train").ground_truth()
    predictions = [{**entry, "score": 1.0} for entry in truth["annotations"] if not entry["difficult"]]
    assert voc.evaluate(predictions, truth)["voc"] == dict.fromkeys(("AP", "AP07", "APr50", "APr70"), 100)
    assert coco.evaluate(predictions, truth)["segm"]["AP"] == pytest.approx(100)


def test_the_source_finds_the_year_in_a_devkit(write_voc: Write) -> None:
    root = write_voc()
    above = root.parent / "above"
    (above / "VOCdevkit").mkdir(parents=True)
    (above / "VOCdevkit" / "VOC2007").symlink_to(root)
    for folder in (root.parent, above):
        assert len(VocSource(str(folder), val_split="train").val()) == 1
    (root.parent / "VOC2012").mkdir()
    with pytest.raises(UserError, match="VOC2007, VOC2012; name one"):
        VocSource(str(root.parent)).train()
    with pytest.raises(UserError, match=r"data=voc needs data\.root"):
        VocSource(None).train()


def test_what_is_wrong_in_a_voc_folder_is_said(write_voc: Write) -> None:
    root = write_voc()
    with pytest.raises(UserError, match=r"no split .*Segmentation.*test\.txt; there are: train"):
        VocDataset(root, "test")
    with pytest.raises(UserError, match="no VOC folder: it has no JPEGImages"):
        VocDataset(root.parent, "train")


def labelled(write_voc: Write, suffix: str = ".png", size: str = "0", stem: str = "Cars 1") -> Path:
    """A folder as LabelImg leaves it: own classes, boxes alone, another suffix, names with a space."""
    root = write_voc([("screw", (3, 2, 12, 11), 0), ("nut", (15, 5, 30, 20), 0)])
    for name, new in (("000007", stem), ("000009", "Cars 2")):
        image = root / "JPEGImages" / f"{name}.jpg"
        Image.open(image).convert("RGB").save(root / "JPEGImages" / f"{new}.png")
        (root / "JPEGImages" / f"{new}.png").rename(root / "JPEGImages" / f"{new}{suffix}")
        image.unlink()
        xml = (
            (root / "Annotations" / f"{name}.xml")
            .read_text()
            .replace(">32<", f">{size}<")
            .replace(">24<", f">{size}<")
        )
        (root / "Annotations" / f"{name}.xml").unlink()
        (root / "Annotations" / f"{new}.xml").write_text(xml)
    for folder in ("SegmentationObject", "ImageSets/Segmentation"):
        for path in (root / folder).iterdir():
            path.unlink()
        (root / folder).rmdir()
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"{stem}\nCars 2\n")
    (root / "ImageSets" / "Main" / "nut_train.txt").write_text(f"{stem}  1\nCars 2 -1\n")
    return root


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".JPG", ".bmp"])
def test_folders_of_labelimg_are_read(write_voc: Write, suffix: str) -> None:
    root = labelled(write_voc, suffix)
    dataset = VocDataset(root, "train")
    assert [c["name"] for c in dataset.categories] == ["nut", "screw"]
    assert [dataset.image_info(i) for i in range(2)] == [(f"Cars {k}{suffix}", 24, 32) for k in (1, 2)]
    example = dataset.read(0)
    np.testing.assert_array_equal(example.boxes, [[2, 1, 12, 11], [14, 4, 30, 20]])
    assert [dataset.categories[label]["name"] for label in example.labels] == ["screw", "nut"]
    assert example.masks == [None, None]
    assert len(VocDataset(root, "nut_train")) == 2
    findings = check_voc(root)
    assert (findings.defects, findings.num_images, dict(findings.classes)) == ([], 2, {"screw": 2, "nut": 2})
    truth = dataset.ground_truth()
    predictions = [{**entry, "score": 1.0} for entry in truth["annotations"]]
    assert voc.evaluate(predictions, truth)["voc"]["AP"] == 100


def test_classes_can_be_listed(write_voc: Write) -> None:
    root = labelled(write_voc)
    source = VocSource(str(root), classes=["screw", "nut", "bolt"])
    assert [c["name"] for c in source.train().categories] == ["screw", "nut", "bolt"]
    with pytest.raises(UserError, match=r"class 'nut', which is none of: screw; data\.classes="):
        VocSource(str(root), classes=["screw"]).train()


def test_all_masks_of_the_real_voc2007_are_under_their_xml_class(real_data: Callable[[str], Path]) -> None:
    """Every mask's pixels carry, in SegmentationClass, the class its xml names; void is in none."""
    root = real_data("VOCdevkit/VOC2007")
    counts = {}
    for split in ("train", "val"):
        dataset = VocDataset(root, split)
        for index in range(len(dataset)):
            record = dataset.record(index)
            stem = Path(record.file_name).stem
            classes = np.array(Image.open(root / "SegmentationClass" / f"{stem}.png"))
            xml = ElementTree.parse(root / "Annotations" / f"{stem}.xml")
            names = [element.findtext("name") for element in xml.findall("object")]
            for name, mask in zip(names, dataset.masks(record), strict=True):
                if mask is not None:
                    h, w = mask.bits.shape
                    inside = classes[mask.y0 : mask.y0 + h, mask.x0 : mask.x0 + w][mask.bits != 0]
                    assert set(inside.tolist()) == {CLASSES.index(str(name)) + 1}
                    counts[split] = counts.get(split, 0) + 1
    assert counts == {"train": 633, "val": 582}
