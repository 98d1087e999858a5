"""Files of proposals: the compact one of tools/propose.py, and COCO results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data.proposals import ProposalFile, ProposalWriter
from maskrcnn.errors import UserError

BOXES = {  # x1, y1, x2, y2 and the score, in no order
    7: [[1, 2, 11, 22, 0.25], [0, 0, 4, 4, 0.75], [3, 3, 9, 8, 0.5]],
    3: [[5, 5, 6, 6, 0.5]],
    12: [],
}


@pytest.fixture(params=["npz", "json"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same boxes in both kinds of file."""
    out = tmp_path / f"p.{request.param}"
    if request.param == "json":
        results = [
            {"image_id": image_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for image_id, rows in BOXES.items()
            for x1, y1, x2, y2, score in rows
        ]
        out.write_text(json.dumps(results))
        return out
    writer = ProposalWriter()
    for image_id, rows in BOXES.items():
        array = np.array(rows, np.float32).reshape(-1, 5)
        writer.add(image_id, array[:, :4], array[:, 4])
    assert writer.write(out) == 4
    return out


def test_the_best_of_each_image_are_read(path: Path) -> None:
    proposals = ProposalFile(path, most=2)
    assert proposals.of(7).tolist() == [[0, 0, 4, 4, 0.75], [3, 3, 9, 8, 0.5]]
    assert proposals.of(3).tolist() == [[5, 5, 6, 6, 0.5]]
    for absent in (12, 99):
        assert proposals.of(absent).shape == (0, 5)
    assert proposals.of(7).dtype == np.float32


def test_a_box_takes_twenty_bytes(tmp_path: Path) -> None:
    writer = ProposalWriter()
    for image_id in range(50):
        writer.add(image_id, np.zeros((1000, 4), np.float32), np.zeros(1000, np.float32))
    writer.write(tmp_path / "p.npz")
    assert (tmp_path / "p.npz").stat().st_size < 50_000 * 20 + 3000


@pytest.mark.parametrize("content", [b"", b"[]", b"PK\x03\x04 cut off"])
def test_what_is_no_file_of_proposals_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"p\.npz are no file of tools/propose\.py"):
        ProposalFile(tmp_path / "p.npz", 1)
    with pytest.raises(UserError, match="there is no file"):
        ProposalFile(tmp_path / "none.npz", 1)


def test_arrays_that_do_not_belong_together_are_said(tmp_path: Path) -> None:
    arrays = {"image_ids": np.arange(2), "offsets": np.array([0, 1, 3]), "scores": np.zeros(2)}
    np.savez(tmp_path / "p.npz", boxes=np.zeros((2, 4)), **arrays)
    with pytest.raises(UserError, match=r"p\.npz are damaged"):
        ProposalFile(tmp_path / "p.npz", 1)
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(UserError, match=r"q\.npz are no file"):
        ProposalFile(tmp_path / "q.npz", 1)
