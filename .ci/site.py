"""A hook of mkdocs: adds the explorer, which the package itself writes, and the notebook as a page to the site."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from subprocess import run
from sys import executable
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.structure.files import File, Files

PAGE = "maskrcnn.ablation.explorer"  # `python -m` with the file to write
NOTEBOOK = "notebooks/why_roialign.ipynb"
DOWNLOAD = "\n\n[Download the notebook](why_roialign.ipynb) to run it here or on Colab."


def on_files(files: Files, config: Any) -> Files:
    """Add explorer.html where this version of the package can write it, and the notebook's text and code."""
    notebook = json.loads((Path(config["docs_dir"]) / NOTEBOOK).read_text())
    page = NOTEBOOK.replace(".ipynb", ".md")
    files.append(File.generated(config, page, content=as_markdown(notebook["cells"])))
    if find_spec(PAGE) is not None:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "explorer.html"
            run([executable, "-m", PAGE, str(out)], check=True)
            files.append(File.generated(config, "explorer.html", content=out.read_text()))
    return files


def as_markdown(cells: list[dict[str, Any]]) -> str:
    """The cells of a notebook as a page: text as it is, code in fences; the first cell is followed by a link."""
    texts = ["".join(cell["source"]) for cell in cells]
    texts = [
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for cell, text in zip(cells, texts, strict=True)
    ]
    return "\n\n".join([texts[0] + DOWNLOAD, *texts[1:]])
