"""A hook of mkdocs: adds the explorer, a page that the package itself writes, to the site."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from subprocess import run
from sys import executable
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.structure.files import File, Files

PAGE = "maskrcnn.ablation.explorer"  # `python -m` with the file to write


def on_files(files: Files, config: Any) -> Files:
    """Add explorer.html where this version of the package can write it."""
    if find_spec(PAGE) is not None:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "explorer.html"
            run([executable, "-m", PAGE, str(out)], check=True)
            files.append(File.generated(config, "explorer.html", content=out.read_text()))
    return files
