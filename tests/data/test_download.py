"""Fetching from a local server: resumed, checked, and kept inside of the target."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from maskrcnn.data.download import Archive, fetch, prepare
from maskrcnn.errors import UserError

Files = dict[str, bytes]


class Server:
    """Serves ``files``; stops sending a file after ``breaks_after`` bytes, once; remembers the ranges asked
    for.
    """

    def __init__(self) -> None:
        self.files: Files = {}
        self.breaks_after: int | None = None
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        content = self.files.get(request.path.strip("/"))
        asked = request.headers["Range"]
        self.ranges.append(asked)
        if content is None:
            return request.send_error(404)
        begin = int(asked[6:-1]) if asked else 0
        if asked and begin >= len(content):
            return request.send_error(416)
        request.send_response(206 if asked else 200)
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        end, self.breaks_after = self.breaks_after, None
        request.wfile.write(content[begin:end])
        return None

    def archive(self, name: str, content: bytes) -> Archive:
        self.files[name] = content
        url = f"http://127.0.0.1:{self.http.server_port}/{name}"
        return Archive(url, hashlib.md5(content).hexdigest())


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    yield served
    served.http.shutdown()


def zipped(members: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(members: Files, links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, goal in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, goal
            archive.addfile(info)
    return out.getvalue()


def silent(what: str, done: int, total: int | None) -> None:
    assert total is None or done <= total


def files_in(folder: Path) -> Files:
    found = (p for p in folder.rglob("*") if p.is_file() and ".prepared" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


MEMBERS = {"val2017/1.jpg": b"a" * 5000, "annotations/x.json": b"{}"}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_fetched_and_unpacked_once(
    server: Server, tmp_path: Path, pack: Callable[..., bytes]
) -> None:
    archive = server.archive("data", pack(MEMBERS))
    prepare((archive,), tmp_path / "coco", silent)
    assert files_in(tmp_path / "coco") == MEMBERS
    prepare((archive,), tmp_path / "coco", silent)
    assert len(server.ranges) == 1


def test_a_broken_off_download_is_resumed(server: Server, tmp_path: Path) -> None:
    archive = server.archive("data.zip", zipped(MEMBERS))
    server.breaks_after = 1000
    with pytest.raises(UserError, match=r"broke off after 1000 of \d+ bytes; run the same command again"):
        prepare((archive,), tmp_path, silent)
    assert files_in(tmp_path) == {}
    prepare((archive,), tmp_path, silent)
    assert server.ranges == [None, "bytes=1000-"]
    assert files_in(tmp_path) == MEMBERS


def test_the_archive_is_kept_when_asked_for(server: Server, tmp_path: Path) -> None:
    content = zipped(MEMBERS)
    prepare((server.archive("data.zip", content),), tmp_path, silent, keep=True)
    assert files_in(tmp_path) == {**MEMBERS, "data.zip": content}


def test_another_checksum_is_refused_and_the_file_removed(server: Server, tmp_path: Path) -> None:
    archive = server.archive("data.zip", zipped(MEMBERS))
    server.files["data.zip"] += b"more"
    with pytest.raises(UserError, match="not the published"):
        prepare((archive,), tmp_path, silent)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


EVIL = {
    "zip that climbs out": zipped({"good.txt": b"", "../evil.txt": b"x"}),
    "zip with an absolute path": zipped({"good.txt": b"", "/tmp/evil.txt": b"x"}),
    "zip with backslashes": zipped({"good.txt": b"", "..\\evil.txt": b"x"}),
    "tar that climbs out": tarred({"good.txt": b"", "a/../../evil.txt": b"x"}),
    "tar with a link": tarred({"good.txt": b""}, {"link": "/tmp"}),
    "truncated zip": zipped(MEMBERS)[:-30],
    "truncated tar": tarred({"big": bytes(range(256)) * 400})[:200],
    "no archive": b"<html>moved</html>",
    "empty file": b"",
}


@pytest.mark.parametrize("kind", EVIL)
def test_damaged_and_malicious_archives_write_nothing(server: Server, tmp_path: Path, kind: str) -> None:
    archive = server.archive("data", EVIL[kind])
    words = "no whole zip or tar" if kind.startswith(("trunc", "no", "empty")) else "leads out of|a link"
    with pytest.raises(UserError, match=words):
        prepare((archive,), tmp_path / "in" / "side", silent)
    assert files_in(tmp_path) == {}


def test_a_missing_file_and_a_silent_server_are_said(server: Server, tmp_path: Path) -> None:
    archive = server.archive("data.zip", b"")
    server.files.clear()
    with pytest.raises(UserError, match="answers 404"):
        prepare((archive,), tmp_path, silent)
    with pytest.raises(UserError, match=r"cannot be fetched .*run the same command again to resume"):
        prepare((Archive("http://127.0.0.1:9/none.zip", "0"),), tmp_path, silent)


def test_a_target_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        prepare((), tmp_path / "file", silent)


def test_a_mirror_that_is_no_address_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no address"):
        fetch("example.org/a.zip", tmp_path / "a.zip", lambda *arguments: None)
