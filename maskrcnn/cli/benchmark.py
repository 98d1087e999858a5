"""Compare the speed of this project with that of its peers.

Usage: maskrcnn benchmark suite=ops [out=FILE.json] [key=value ...]

Needs a clone of the repository, which has the suites (benchmarks/). Both sides run alternately in one process. Prints
the medians of the ratios and their spread. Other keys are arguments of the suite.

Examples:
  maskrcnn benchmark suite=ops out=benchmarks/ops.json
  maskrcnn benchmark suite=data root=DIR out=benchmarks/data.json
  DIR has COCO's val2017/ and annotations/instances_val2017.json
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from maskrcnn.config import compose as configs
from maskrcnn.console import console
from maskrcnn.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SUITES = ROOT / "benchmarks"
_NUMBERS = ("ratio", "ours", "peer's", "goal")


@dataclass
class Benchmark:
    """Keys of ``maskrcnn benchmark``. Every other key is an argument of the suite, for example repeats=3.

    Args:
        suite: a file of benchmarks/.
        out: FILE.json; a table FILE.md is written next to it.
        debug: print tracebacks of errors.
    """

    suite: str | None = None
    out: str | None = None
    debug: bool = False


def main(arguments: Sequence[str]) -> None:
    """Run one suite, print its table and write its json."""
    settings, rest = configs.compose_command("benchmark", arguments, Benchmark)
    if not (SUITES / "timing.py").is_file():
        raise UserError(
            "the benchmarks are part of the repository and not of the installed package: use a clone"
        )
    sys.path.insert(0, str(ROOT))
    suites = sorted(p.stem for p in SUITES.glob("*.py") if "def run(" in p.read_text())
    if settings.suite not in suites:
        raise UserError(f"suite={settings.suite}: give one of {', '.join(suites)}")
    run = importlib.import_module(f"benchmarks.{settings.suite}").run
    result = run(**_arguments(run, rest))
    console.print(_table(settings.suite, result))
    for key, value in result.items():
        if key != "rows":
            console.print(f"{key}: {json.dumps(value)}")
    if settings.out is not None:
        Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
        Path(settings.out).write_text(json.dumps(result, indent=1) + "\n")
        Path(settings.out).with_suffix(".md").write_text(_markdown(settings.suite, result))
        console.print(f"written: {settings.out}, {Path(settings.out).with_suffix('.md')}")


def _arguments(run: Any, given: Sequence[str]) -> dict[str, Any]:
    """Convert ``key=value`` strings to the annotated types of the suite's parameters."""
    known = inspect.signature(run).parameters
    values: dict[str, Any] = {}
    for text in given:
        key, _, value = text.partition("=")
        if key not in known:
            raise UserError(f"{key}: this suite has {', '.join(known) or 'no arguments'}")
        convert = {"int": int, "Path": Path}.get(str(known[key].annotation), str)
        try:
            values[key] = convert(value)
        except ValueError as error:
            raise UserError(f"{text}: expected {known[key].annotation}") from error
    absent = [k for k, p in known.items() if p.default is inspect.Parameter.empty and k not in values]
    if absent:
        raise UserError(f"this suite needs {', '.join(f'{key}=...' for key in absent)}")
    return values


def _rows(result: dict[str, Any]) -> tuple[str, list[list[str]]]:
    """The common part of all settings and peers, and the rows of the table: what was measured, and its numbers."""
    subjects = [
        [part for key in ("setting", "peer") for part in row[key].split(", ")] for row in result["rows"]
    ]
    shared = [part for part in dict.fromkeys(subjects[0]) if all(part in subject for subject in subjects)]
    rows = [
        [
            row["name"],
            ", ".join(part for part in subject if part not in shared),
            f"{row['ratio_median']:.2f}x ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})",
            _time(row, "ours"),
            _time(row, "peer"),
            row["goal"],
        ]
        for row, subject in zip(result["rows"], subjects, strict=True)
    ]
    return ", ".join(shared), rows


def _time(row: dict[str, Any], side: str) -> str:
    """``1.2 ms``, and the time that the host took to queue it if that was measured."""
    host = row.get(f"{side}_host_ms")
    digits = 1 if host is None else 3
    queued = "" if host is None else f"\n(host {host:.{digits}f})"
    return f"{row[f'{side}_ms']:.{digits}f} ms{queued}"


def _title(suite: str) -> str:
    return f"suite={suite}: the peer's time divided by ours, median (least-most) of turns in one process"


def _table(suite: str, result: dict[str, Any]) -> Group:
    shared, rows = _rows(result)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column("")
    for column in _NUMBERS:
        table.add_column(column, no_wrap=True, justify="right")
    for name, rest, *numbers in rows:
        table.add_row(f"{name}\n{rest}" if rest else name, *numbers)
    return Group(Text(_title(suite)), Text(shared), Text(""), table)


def _markdown(suite: str, result: dict[str, Any]) -> str:
    columns = ["name", "setting", *_NUMBERS]
    shared, rows = _rows(result)
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join("| " + " | ".join(line).replace("\n", " ") + " |" for line in lines)
    rest = [f"- {key}: `{json.dumps(value)}`" for key, value in result.items() if key != "rows"]
    return (
        f"# maskrcnn benchmark suite={suite}\n\n{_title(suite)}.\n\nAll rows: {shared}.\n\n{table}\n\n"
        + "\n".join(rest)
        + "\n"
    )
