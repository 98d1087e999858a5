"""Masks as images, to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.folders.masks import Masks
from maskrcnn.data.folders.source import FolderSource
from maskrcnn.errors import UserError
from tests.data.folders.conftest import block, check, everything, l_shape, read


def write(root: Path, name: str, values: np.ndarray, mode: str | None = None) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([value for k in range(256) for value in (k, 255 - k, k // 2)])
    elif mode is not None:
        image = image.convert(mode)
    image.save(path)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "P", "RGB"])
@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_each_value_is_an_object(kind: str, suffix: str, picture: Callable[..., Path]) -> None:
    root = picture("images/a.jpg").parents[1]
    picture("images/a_b.jpg")
    ids = l_shape() * np.uint8(3)
    ids += 250 * block(40, 0, 50, 10) + 250 * block(55, 30, 60, 40)  # an object in two pieces
    values = ids.astype(np.uint16) * 100 if kind == "uint16" else ids
    for name in ("a", "a_b"):
        write(root, f"masks/{name}{suffix}.png", values, kind if kind in ("P", "RGB") else None)
    found = read(everything(root))
    two = block(40, 0, 50, 10) | block(55, 30, 60, 40)
    for name in ("a", "a_b"):
        check(found[f"images/{name}.jpg"], ("object", l_shape()), ("object", two))


@pytest.mark.parametrize("pattern", ["masks/a/{}.png", "masks/a_{}.png"])
def test_a_file_for_each_object(pattern: str, picture: Callable[..., Path]) -> None:
    root = picture("images/a.jpg").parents[1]
    picture("images/b.jpg")
    write(root, pattern.format(0), 255 * l_shape())
    write(root, pattern.format(1), 255 * block(15, 10, 30, 20))  # which overlaps it
    write(root, pattern.format(2), 0 * l_shape())
    write(root, "masks/b.png", 7 * block(0, 0, 5, 5))
    dataset = everything(root, classes=["nut"])
    found = read(dataset)
    check(found["images/a.jpg"], ("nut", l_shape()), ("nut", block(15, 10, 30, 20)))
    check(found["images/b.jpg"], ("nut", block(0, 0, 5, 5)))
    assert dataset.report[1:] == ["left out 1 x an empty mask"]


def test_a_folder_for_each_image(picture: Callable[..., Path]) -> None:
    """As the nuclei of the 2018 Data Science Bowl."""
    root = picture("x1/images/x1.png").parents[2]
    picture("x2/images/x2.png")
    for name, mask in (("x1", l_shape()), ("x2", block(1, 2, 3, 4))):
        write(root, f"{name}/masks/9f.png", 255 * mask)
        write(root, f"{name}/masks/a0.png", 255 * block(40, 30, 60, 40))
    found = read(everything(root))
    check(found["x1/images/x1.png"], ("object", l_shape()), ("object", block(40, 30, 60, 40)))
    check(found["x2/images/x2.png"], ("object", block(1, 2, 3, 4)), ("object", block(40, 30, 60, 40)))


@pytest.mark.parametrize("layout", ["{part}/{kind}/a.png", "{kind}/{part}/a.png"])
def test_parts(layout: str, picture: Callable[..., Path], tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(layout.format(part=part, kind="images"))
        write(tmp_path / "data", layout.format(part=part, kind="masks"), l_shape() + 2 * block(40, 0, 50, 10))
    source = FolderSource(str(tmp_path / "data"))
    for part, dataset in (("train", source.train()), ("val", source.val())):
        assert dataset is not None
        name = layout.format(part=part, kind="images")
        check(read(dataset)[name], ("object", l_shape()), ("object", block(40, 0, 50, 10)))


def test_masks_of_one_value_need_the_key(picture: Callable[..., Path]) -> None:
    root = picture("images/a.jpg").parents[1]
    corner = block(20, 25, 25, 30)  # touches the L's corner alone: of eight neighbours, not of four
    write(root, "masks/a.png", 255 * (l_shape() | corner | block(50, 30, 60, 40)))
    with pytest.raises(
        UserError, match=r"no mask of an image has more than one value besides 0: data\.formats\.masks"
    ):
        everything(root)
    formats = {"masks": Masks("regions")}
    found = read(everything(root, formats=formats))["images/a.jpg"]
    check(found, ("object", l_shape() | corner), ("object", block(50, 30, 60, 40)))
    found = read(everything(root, formats={"masks": Masks("objects")}))["images/a.jpg"]
    check(found, ("object", l_shape() | corner | block(50, 30, 60, 40)))


def test_what_cannot_be_read_is_named(picture: Callable[..., Path]) -> None:
    root = picture("images/a.jpg").parents[1]
    picture("images/b.jpg")
    ids = l_shape() + 2 * block(40, 0, 50, 10)
    write(root, "masks/a.png", ids)
    write(root, "masks/c.png", ids)
    with pytest.raises(
        UserError, match=r"1 images that the annotations name are missing \(that of masks/c\.png\)"
    ):
        everything(root)
    (root / "masks" / "c.png").unlink()
    write(root, "masks/b.png", np.dstack([ids, ids * 2, ids]))
    with pytest.raises(
        UserError, match=r"b\.png is no image of whole numbers \(uint8 \[40, 60, 3\]\): save it with"
    ):
        everything(root)
    (root / "masks" / "b.png").write_bytes(b"none")
    with pytest.raises(UserError, match=r"the mask .*b\.png is damaged"):
        everything(root)
    write(root, "masks/b.png", l_shape())
    write(root, "masks/b_2.png", l_shape())
    with pytest.raises(
        UserError, match=r"a\.png has 2 values besides 0, but other images have a file for each object"
    ):
        everything(root)
    write(root, "masks/a.png", np.zeros((3, 3), np.uint8))
    write(root, "masks/a_2.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"of one image have different sizes"):
        everything(root)
    with pytest.raises(UserError, match=r"masks as images have one class; give one name"):
        everything(root, classes=["a", "b"])
