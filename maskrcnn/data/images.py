"""Reads image files as arrays, with clear errors for unreadable files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from maskrcnn.errors import UserError

Pixels = npt.NDArray[np.uint8]
_ORIENTATION = 0x0112  # the EXIF tag
_DARK = 2**14  # a 16-bit image is dark if all values are smaller

# Data loading uses many processes, so OpenCV's own threads would only compete for the cores.
cv2.setNumThreads(0)


class CorruptImageError(UserError):
    """An image file cannot be decoded. A data set may skip such images."""


def read_image(path: str | Path, expected_size: tuple[int, int] | None = None) -> Pixels:
    """Read an image as ``[H, W, 3]`` uint8 RGB.

    Grey, palette, CMYK and 16-bit images are converted (of 16 bits, the upper eight are kept), an alpha channel is
    dropped, and the EXIF orientation is applied, as image viewers do.

    Args:
        path: the file.
        expected_size: (height, width) that the annotations are for. An image that has this size only without its EXIF
            rotation is not rotated. None accepts any size.

    Raises:
        UserError: the file is missing, or has another size.
        CorruptImageError: the file cannot be decoded.
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
    found = f"the image {path} is {image.shape[0]} x {image.shape[1]} (height x width), but its annotations"
    if image.shape[1::-1] == tuple(expected_size):
        remedy = "tools/check_data.py --fix writes the file's"
        raise UserError(f"{found} have height and width swapped; {remedy}")
    raise UserError(
        f"{found} say {expected_size[0]} x {expected_size[1]}; either the image was replaced or resized after it was "
        "annotated, or height and width are wrong in the annotation file"
    )


def few_bits(path: str | Path, pixels: Pixels) -> int | None:
    """Return the largest value of a 16-bit image that only uses few bits; None for any other image.

    Of 16 bits the upper eight are read, so an image with 10 or 12 bits in 16 is almost black.

    Args:
        path: the file.
        pixels: the image as it was read.
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
    except cv2.error:  # an empty file, or a header with a size beyond the memory
        image = None
    if image is None:
        raise CorruptImageError(
            f"the image {path} is damaged, incomplete or of an unsupported kind ({data.size} bytes could not "
            "be decoded as an 8- or 16-bit image)"
        )
    return np.asarray(image, np.uint8)


def read_values(path: Path) -> tuple[str, npt.NDArray[Any]]:
    """Pillow's mode of an image file, and its values unchanged: of a palette the indices."""
    try:
        with Image.open(path) as file:
            return file.mode, np.array(file)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise UserError(f"the mask image {path} is damaged ({error}); write or download it again") from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as `read_image` returns it, usually without decoding it."""
    try:
        with Image.open(path) as file:
            turned = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (file.width, file.height) if turned else (file.height, file.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        height, width = read_image(path).shape[:2]  # OpenCV reads it, or raises an error that says why not
        return height, width
