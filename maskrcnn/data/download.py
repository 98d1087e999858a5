"""Downloads and unpacks published data sets.

Downloads are resumed and checked, and nothing is written outside the target.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from maskrcnn.errors import UserError

Progress = Callable[[str, int, int | None], None]  # name, bytes so far, total bytes if known
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file to download and unpack.

    Args:
        url: its address.
        md5: its published checksum.
        folder: where to unpack it, relative to the target.
    """

    url: str
    md5: str
    folder: str = "."

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


_COCO, _VOC = "http://images.cocodataset.org", "http://host.robots.ox.ac.uk/pascal/VOC"
_SBD = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
SETS: dict[str, tuple[Archive, ...]] = {
    "coco": (
        Archive(f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
        Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
        Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
    "voc2007": (
        Archive(f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
        Archive(f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    ),
    "voc2012": (Archive(f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),),
    "sbd": (Archive(f"{_SBD}/benchmark.tgz", "82b4d87ceb2ed10f6038a1cba92111cb"),),
}


def prepare(archives: tuple[Archive, ...], target: Path, progress: Progress, keep: bool = False) -> None:
    """Download and unpack archives. Archives that an earlier call finished are skipped.

    Args:
        archives: the files.
        target: the folder to unpack into.
        progress: called with name, bytes so far, and total bytes if known.
        keep: keep the archives after unpacking.

    Raises:
        UserError: a download fails, a checksum is wrong, or an archive would write outside the target.
    """
    done = target / ".prepared"
    try:
        done.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror}") from error
    for archive in archives:
        if (done / archive.name).is_file():
            continue
        path = done / f"{archive.name}.part"
        fetch(archive.url, path, progress)
        check_md5(path, archive)
        unpack(path, target / archive.folder, archive.name, progress)
        (done / archive.name).write_text(f"{archive.url} {archive.md5}\n")
        if keep:
            path.rename(target / archive.name)
        else:
            path.unlink()


def fetch(url: str, path: Path, progress: Progress) -> None:
    """Download ``url`` to ``path``, resuming an earlier attempt. ``progress`` is called as in `prepare`."""
    begun = path.stat().st_size if path.is_file() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    except ValueError as error:
        raise UserError(f"{url} is no address ({error}); mirror= begins with https:// or http://") from error
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:  # the server starts from the beginning
                begun = 0
            length = answer.headers["Content-Length"]
            total = begun + int(length) if length else None
            with open(path, "ab" if begun else "wb") as file:
                for chunk in iter(lambda: answer.read(_CHUNK), b""):
                    begun += file.write(chunk)
                    progress(f"fetching {url.rsplit('/', 1)[-1]}", begun, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the file is complete, or its checksum is wrong
            return
        raise UserError(
            f"{url} answers {error.code} {error.reason}; fetch it by hand, or use mirror=URL"
        ) from error
    except (OSError, http.client.HTTPException) as error:  # also URLError
        raise UserError(f"{url} cannot be fetched ({error}); run the same command again to resume") from error
    if total is not None and begun < total:
        raise UserError(
            f"{url} broke off after {begun} of {total} bytes; run the same command again to resume"
        )


def check_md5(path: Path, archive: Archive) -> None:
    """Delete a file whose checksum is wrong, and raise UserError."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != archive.md5:
        path.unlink()
        raise UserError(
            f"{archive.url} has the checksum {found}, not the published {archive.md5}; the download was damaged, or "
            "the file changed: it was removed, run the same command again"
        )


def unpack(path: Path, folder: Path, name: str, progress: Progress) -> None:
    """Unpack a zip or tar archive. An archive with a member outside the folder is refused before anything is written.

    Args:
        path: the archive.
        folder: where to unpack it.
        name: its name, for messages.
        progress: called as in `prepare`.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _write(name, list(_zip_members(archive, name)), folder, progress)
        else:
            with tarfile.open(path) as tar:
                _write(name, list(_tar_members(tar, name)), folder, progress)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{name} is no whole zip or tar archive ({error}); remove {path} and fetch it again"
        ) from error


Member = tuple[PurePosixPath, int, Callable[[], IO[bytes] | None]]


def _zip_members(archive: zipfile.ZipFile, name: str) -> Iterator[Member]:
    for info in archive.infolist():
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            raise UserError(f"{name} holds the link {info.filename}; it was not unpacked")
        if not info.is_dir():
            yield safe_path(info.filename, name), info.file_size, partial(archive.open, info)


def _tar_members(archive: tarfile.TarFile, name: str) -> Iterator[Member]:
    for info in archive:
        if not (info.isfile() or info.isdir()):
            raise UserError(f"{name} holds {info.name}, which is a link or a device; it was not unpacked")
        if info.isfile():
            yield safe_path(info.name, name), info.size, partial(archive.extractfile, info)


def safe_path(member: str, name: str) -> PurePosixPath:
    """Return a member's path. Raises UserError if it is absolute or leaves the folder."""
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member or not path.parts:
        raise UserError(f"{name} holds the path {member!r}, which leads out of the target: not unpacked")
    return path


def _write(name: str, members: list[Member], folder: Path, progress: Progress) -> None:
    total, written = sum(size for _, size, _ in members), 0
    root = folder.resolve()
    for path, size, opened in members:
        goal = root / path
        # An existing link in the target could lead elsewhere.
        if not goal.parent.resolve().is_relative_to(root):
            raise UserError(f"{goal.parent} leads out of {root}; remove the link")
        goal.parent.mkdir(parents=True, exist_ok=True)
        source: Any = opened()
        with source, open(goal, "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
        written += size
        progress(f"unpacking {name}", written, total)
