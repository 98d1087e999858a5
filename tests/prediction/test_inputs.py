"""What ``input=`` names: folders, subfolders, names with a glob's own characters; and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.errors import UserError
from maskrcnn.prediction.inputs import Stills, open_input


def picture(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((8, 9, 3), np.uint8) if pixels is None else pixels
    content = cv2.imencode(".png", values)[1]
    path.write_bytes(content.tobytes())
    return path


def names(source: object) -> list[str]:
    assert isinstance(source, Stills)
    return [frame.file_name for frame in source]


def test_a_folder_says_what_it_leaves_out_and_why(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "c.jpe", "d.jp2", "e.gif", "deep/f.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    source = open_input(str(tmp_path))
    assert names(source) == ["a.png", "b.PNG", "c.jpe", "d.jp2", "e.gif"]
    assert isinstance(source, Stills)
    assert "1 files of other kinds left out: notes.txt" in source.left_out
    assert "1 subfolders left out (recursive=true takes them): deep" in source.left_out
    assert names(open_input(str(tmp_path), recursive=True))[-1] == "e.gif"
    assert "deep/f.png" in names(open_input(str(tmp_path), recursive=True))


def test_a_folder_without_an_image_says_what_it_has(tmp_path: Path) -> None:
    picture(tmp_path / "deep" / "a.png")
    with pytest.raises(
        UserError, match=r"no image found in this folder \(1 subfolders left out .*recursive=true"
    ):
        open_input(str(tmp_path))


@pytest.mark.parametrize("folder", ["[new]", "a*b", "what?", "[!x]", "plain"])
def test_characters_of_globs_in_names_are_characters(tmp_path: Path, folder: str) -> None:
    place = picture(tmp_path / folder / "[edited] 1.png").parent
    picture(place / "2.png")
    assert names(open_input(str(place / "[edited] 1.png"))) == ["[edited] 1.png"]
    assert names(open_input(str(place))) == ["2.png", "[edited] 1.png"]
    assert names(open_input(f"{place}/*.png")) == ["2.png", "[edited] 1.png"]
    assert names(open_input(f"{place}/[0-9].png")) == ["2.png"]


def test_a_folder_may_be_called_like_a_camera_or_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0", "clips.mp4"):
        picture(tmp_path / name / "a.png")
        assert names(open_input(name)) == ["a.png"]


def test_twelve_bits_in_sixteen_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, np.full((8, 9), 3000, np.uint16))
    assert len(names(open_input(str(tmp_path)))) == 2
    assert capsys.readouterr().out.count("16 bits of which few are used") == 1
