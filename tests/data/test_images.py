"""Image files of every kind against Pillow's reading of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.images import CorruptImageError, read_image
from maskrcnn.errors import UserError

SIZE = (20, 32)  # height, width


def picture() -> Image.Image:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return Image.fromarray(np.stack([x * 7, y * 12, (x + y) * 4], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_every_mode_is_read_as_pillow_reads_it(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    picture().convert(mode).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.jpg"
    picture().convert(mode).save(path, quality=95)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - expected).max() <= 2  # two decoders may round a colour differently


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, kind: str) -> None:
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"image.{kind}")
    image = read_image(tmp_path / f"image.{kind}")
    np.testing.assert_array_equal(image, np.repeat((values >> 8)[..., None], 3, axis=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_obeyed_unless_the_annotations_fit_the_unrotated_image(
    tmp_path: Path, orientation: int
) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "image.png"
    picture().save(path, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), shown)
    np.testing.assert_array_equal(read_image(path, shown.shape[:2]), shown)
    if orientation >= 5:
        np.testing.assert_array_equal(read_image(path, SIZE), np.asarray(picture()))


def test_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    picture().save(tmp_path / "image.png")
    with pytest.raises(UserError, match=r"image\.png is 20 x 32 .* its annotations say 32 x 21"):
        read_image(tmp_path / "image.png", (32, 21))
    with pytest.raises(UserError, match=r"image\.png is 20 x 32 .* height and width swapped"):
        read_image(tmp_path / "image.png", (32, 20))


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no image .*nothing\.png"):
        read_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["png", "jpg", "tiff"])
def test_incomplete_files_are_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / f"image.{kind}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(
        CorruptImageError, match=rf"image\.{kind} is damaged, incomplete or of an unsupported"
    ):
        read_image(path)
