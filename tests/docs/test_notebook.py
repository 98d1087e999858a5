"""The notebook of docs/notebooks runs from top to bottom, and git holds none of its outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the package nbformat is not installed")
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "why_roialign.ipynb"
FULL, SHORT = "STEPS, TRAIN_IMAGES, TEST_IMAGES = 200, 400, 100", "STEPS, TRAIN_IMAGES, TEST_IMAGES = 1, 8, 4"


def test_outputs_are_stripped() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "%pip install" in code[0].source
    assert "hydra" not in NOTEBOOK.read_text().lower()


@pytest.mark.slow
def test_it_runs_with_few_steps_and_draws_as_it_proceeds(tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient", reason="the package nbclient is not installed")
    notebook = nbformat.read(NOTEBOOK, 4)
    shortened = [cell for cell in notebook.cells if FULL in cell.source]
    assert len(shortened) == 1
    shortened[0].source = shortened[0].source.replace(FULL, SHORT)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 6  # the readings, the data, a row for each operator, the result
    tables = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    assert [line.split()[0] for line in tables[-1].splitlines()] == ["align", "AP", "AP50", "AP75"]
    assert "4 images, 1 steps an operator" in str(outputs[-1]["text"])
