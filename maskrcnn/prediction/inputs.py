"""Opens the inputs of `maskrcnn predict`: files, folders and globs of pictures, a video, or a camera."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from maskrcnn.console import console
from maskrcnn.data.defects import Kind
from maskrcnn.data.images import CorruptImageError, Pixels, few_bits, read_image
from maskrcnn.errors import UserError

# Formats that OpenCV reads. Some builds of it do not support all of them.
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif", ".gif"),
    *(".pbm", ".pgm", ".ppm", ".pxm", ".pnm", ".pfm", ".sr", ".ras", ".hdr", ".pic", ".exr"),
}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
_DEFAULT_RATE = 25.0  # frames per second, if the source does not state it


class Frame(NamedTuple):
    """A picture and its origin.

    Attributes:
        file_name: name of the file.
        number: index of a frame in its video from 0, None for a picture file.
        image: ``[H, W, 3]`` uint8 RGB.
    """

    file_name: str
    number: int | None
    image: Pixels


@dataclass(frozen=True)
class Stills:
    """Picture files.

    Attributes:
        paths: the files.
        folder: the folder that contains all of them.
        left_out: a sentence about the other files in the folder.
    """

    paths: list[Path]
    folder: Path
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        """Yield every readable picture. Unreadable ones are named and skipped, unless there is only one."""
        damaged, warned = 0, False
        for path in self.paths:
            try:
                image = read_image(path)
            except CorruptImageError as error:
                damaged += 1
                if damaged == len(self.paths):
                    raise
                console.print(f"passed over: {error}", style="yellow")
                continue
            if not warned and (largest := few_bits(path, image)) is not None:
                warned = True
                console.print(
                    f"{path}: {Kind.FEW_BITS.words} (at most {largest}); {Kind.FEW_BITS.remedy}",
                    style="yellow",
                )
            yield Frame(path.relative_to(self.folder).as_posix(), None, image)


class Video:
    """The frames of a video file or a camera.

    Args:
        source: path of the file, or the number of the camera.
        max_frames: stop after so many frames; None is all.

    Attributes:
        rate: frames per second.
        live: whether it is a camera.

    Raises:
        UserError: the source cannot be opened, or has no frame.
    """

    def __init__(self, source: str, max_frames: int | None = None) -> None:
        self.live = source.isdecimal()
        self.name = f"camera{source}" if self.live else Path(source).name
        self.folder = None if self.live else Path(source).parent
        self._capture = cv2.VideoCapture(int(source) if self.live else source)
        if not self._capture.isOpened():
            what = f"camera {source}" if self.live else f"the video {source}"
            raise UserError(
                f"input={source}: {what} cannot be opened; is it there, and of a kind OpenCV reads?"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = float(rate) if 1 <= rate <= 240 else _DEFAULT_RATE
        self._limit = max_frames
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.total = max_frames if self.live or count <= 0 else min(count, max_frames or count)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        try:
            while self._limit is None or index < self._limit:
                found, image = self._capture.read()
                if not found:
                    break
                yield Frame(self.name, index, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
                index += 1
        finally:
            self._capture.release()
        if index == 0:
            raise UserError(f"input={self.name}: it holds no frame that OpenCV can decode")


def open_input(pattern: str, max_frames: int | None = None, recursive: bool = False) -> Stills | Video:
    """Open what ``input`` names: a camera's number, a video file, or pictures.

    Args:
        pattern: a number, a path, or a glob.
        max_frames: of a video or camera; None is all.
        recursive: include the pictures in subfolders.
    """
    folder = Path(pattern)
    if not folder.is_dir():
        if pattern.isdecimal() or folder.suffix.lower() in VIDEO_SUFFIXES:
            return Video(pattern, max_frames)
        paths = find_images(pattern)
        return Stills(paths, Path(os.path.commonpath([path.parent for path in paths])))
    inside = sorted(folder.rglob("*") if recursive else folder.iterdir())
    paths = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    left_out = _left_out(inside, recursive)
    if not paths:
        raise UserError(
            f"input={pattern}: no image found in this folder{f' ({left_out})' if left_out else ''}"
        )
    return Stills(paths, folder, left_out)


def _left_out(inside: list[Path], recursive: bool) -> str:
    """A sentence with the number of files in a folder that are not pictures."""
    files = [path.name for path in inside if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES]
    folders = [] if recursive else [path.name for path in inside if path.is_dir()]
    kinds = {
        "files of other kinds left out": files,
        "subfolders left out (recursive=true takes them)": folders,
    }
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
        for what, names in kinds.items()
        if names
    )


def find_images(pattern: str) -> list[Path]:
    """The image files of a file name or a glob. Raises UserError if there are none.

    The leading folders of a glob are taken literally if they exist under these exact names.
    """
    path = Path(pattern)
    if _exists(path):
        return [path]
    literal = next((folder for folder in path.parents if _exists(folder)), Path())
    rest = os.path.relpath(path, literal)
    found = [literal / name for name in glob.glob(rest, root_dir=literal, recursive=True)]
    found = [path for path in found if path.is_file()]
    if not found:
        raise UserError(
            f"input={pattern}: no image found; expected a file, a folder with {', '.join(sorted(IMAGE_SUFFIXES))} "
            f"files, a quoted glob, a video ({', '.join(sorted(VIDEO_SUFFIXES))}) or a camera's number"
        )
    return sorted(found)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long for the system
        return False
