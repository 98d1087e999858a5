"""Image files to arrays, with words for what cannot be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from maskrcnn.errors import UserError

Pixels = npt.NDArray[np.uint8]
_ORIENTATION = 0x0112  # the EXIF tag
_DARK = 2**14  # a 16-bit image without a larger value

# Data loading runs in many processes; OpenCV's own threads on top of them only fight for the cores.
cv2.setNumThreads(0)


class CorruptImageError(UserError):
    """An image file that cannot be decoded; a data set may be told to skip these."""


def read_image(path: str | Path, expected_size: tuple[int, int] | None = None) -> Pixels:
    """The image as ``[H, W, 3]`` uint8 RGB.

    Grey, palette, CMYK and 16-bit images are converted (16 bits keep the upper eight), an alpha channel is
    dropped, and the EXIF orientation is obeyed, as image viewers do. expected_size: (height, width) the
    annotations were made for; an image that has this size only without its EXIF rotation is left unrotated.

    Raises UserError for a missing file or another size, CorruptImageError for what is no readable image.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise UserError(f"there is no image {path}; check the images folder of the data set") from error
    except OSError as error:
        raise UserError(f"the image {path} cannot be opened: {error.strerror}") from error
    image = _decode(path, data, cv2.IMREAD_COLOR_RGB)
    if expected_size is None or image.shape[:2] == tuple(expected_size):
        return image
    unrotated = _decode(path, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if unrotated.shape[:2] == tuple(expected_size):
        return unrotated
    if image.shape[1::-1] == tuple(expected_size):
        raise UserError(
            f"the image {path} is {image.shape[0]} x {image.shape[1]} (height x width), but its annotations have "
            "height and width exchanged; tools/check_data.py --fix writes the file's"
        )
    raise UserError(
        f"the image {path} is {image.shape[0]} x {image.shape[1]} (height x width), but its annotations say "
        f"{expected_size[0]} x {expected_size[1]}; either the image was replaced or resized after it was "
        "annotated, or height and width are wrong in the annotation file"
    )


def few_bits(path: str | Path, pixels: Pixels) -> int | None:
    """The largest value of a 16-bit image of which few bits are used; None for any other image.

    Of 16 bits the upper eight are read, so that 10 or 12 bits in 16 come out all but black. pixels: as it was read.
    """
    if pixels.max(initial=0) >= _DARK >> 8:
        return None
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.max() >= _DARK:
        return None
    return int(image.max())


def _decode(path: str | Path, data: npt.NDArray[np.uint8], flags: int) -> Pixels:
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:  # an empty file, or a header that promises an image too large to hold
        image = None
    if image is None:
        raise CorruptImageError(
            f"the image {path} is damaged, incomplete or of an unsupported kind ({data.size} bytes could not "
            "be decoded as an 8- or 16-bit image)"
        )
    return np.asarray(image, np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as `read_image` returns it, mostly without decoding it."""
    try:
        with Image.open(path) as file:
            turned = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (file.width, file.height) if turned else (file.height, file.width)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ):  # OpenCV may know it, or names the fault
        height, width = read_image(path).shape[:2]
        return height, width
