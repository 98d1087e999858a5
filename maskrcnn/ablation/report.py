"""Writes a table's report: runs.csv, report.md, report.html, report.tex and manifest.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from maskrcnn.ablation import made, plots, tables
from maskrcnn.ablation.examples import example_images
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.plot import Plot
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.sentences import sentences
from maskrcnn.ablation.summary import Row, grid_rows, kinds_of, operator_switches, stride_of, value
from maskrcnn.ablation.tables import MAIN, Section

_SIZES = ("segm_APs", "segm_APm", "segm_APl")
_LATEX = {"±": r"$\pm$", "−": r"$-$", "≥": r"$\ge$", "–": "--"}


@dataclass(frozen=True)
class Report:
    """The content of a report, in reading order.

    Args:
        title: the title.
        introduction: what the numbers mean.
        sentences: the result.
        overview: the first plot.
        plots: the other plots.
        sections: tables, folded.
        lists: ``(title, points)``, folded.
        more_plots: plots that only the html page shows, folded.
        examples: images with detections.
        claims: table of the paper's claims.
    """

    title: str
    introduction: str
    sentences: list[str]
    overview: Plot | None
    plots: list[Plot]
    sections: list[Section]
    lists: list[tuple[str, list[str]]]
    more_plots: list[Plot] = field(default_factory=list)
    examples: Plot | None = None
    claims: pd.DataFrame = field(default_factory=pd.DataFrame)


def write_report(table: Table, records: Sequence[Record], out: Path) -> list[Path]:
    """Write the report of a table's finished runs.

    Args:
        table: the table.
        records: records of its finished runs.
        out: folder of the results.

    Returns:
        The written files.
    """
    rows = grid_rows(table, records)
    report = assemble(table, rows, out / "examples")
    manifest = {"table": asdict(table), "runs": {record["id"]: record["manifest"] for record in records}}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    _runs(records).to_csv(out / "runs.csv", index=False)
    written = [out / "manifest.json", out / "runs.csv", *write_pages(report, out)]
    private = out / "runs" / "examples"
    if not table.pictures and private.is_dir():
        # Pictures that may not be published: their page is written to the folder that is not committed.
        page = out / "runs" / "report.html"
        page.write_text(_render("report.html.j2", assemble(table, rows, private)))
        written.append(page)
    return written


def write_pages(report: Any, out: Path, name: str = "report") -> list[Path]:
    """Write report.md with its plots in ``out/plots``, report.html and report.tex.

    Args:
        report: content of the report.
        out: folder of the results. Earlier files in ``out/plots`` are removed.
        name: name of the templates: ``<name>.md.j2`` and ``<name>.html.j2``.

    Returns:
        The written pages.
    """
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for plot in (report.overview, *report.plots, report.examples):
        if plot is not None:
            plot.write(folder)
    (out / "report.md").write_text(_render(f"{name}.md.j2", report))
    (out / "report.html").write_text(_render(f"{name}.html.j2", report))
    frames = [(section.title, frame) for section in report.sections for _, frame in section.tables]
    (out / "report.tex").write_text("\n".join(_latex(title, frame) for title, frame in frames))
    return [out / f"report.{suffix}" for suffix in ("md", "html", "tex")]


def assemble(table: Table, rows: Sequence[Row], images: Path) -> Report:
    """Make the content of a table's report.

    Args:
        table: the table.
        rows: its rows.
        images: folder of the example pictures.
    """
    kinds = kinds_of(rows)
    own = (plots.gains, plots.iou_curves, plots.size_gain, plots.stride_gain)
    shown = [draw(table, rows, kind) for kind in kinds[:1] for draw in own]
    more = [draw(table, rows, kind) for kind in kinds[1:] for draw in (plots.iou_curves, plots.size_gain)]
    return Report(
        title=table.title,
        introduction=_introduction(table, rows),
        sentences=sentences(table, rows),
        overview=plots.overview(table, rows, kinds[0]) if kinds else None,
        plots=[plot for plot in (*shown, plots.learning_curves(table, rows)) if plot is not None],
        more_plots=[plot for plot in more if plot is not None],
        examples=example_images(rows, images),
        claims=tables.claims_table(table, rows),
        sections=[
            *tables.results(rows),
            *tables.difference_table(table, rows),
            *tables.paper_table(table, rows),
            *tables.size_tables(table, rows),
            *tables.instance_tables(table, rows),
            *tables.cross_table(table, rows),
        ],
        lists=[
            ("Training settings", made.settings(table, rows)),
            ("Time, machine and versions", made.provenance(table, rows)),
        ],
    )


def _introduction(table: Table, rows: Sequence[Row]) -> str:
    counts = sorted({len(row.records) for row in rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    whole = len(table.runs(seeds=1))
    missing = (
        ""
        if len(rows) == whole
        else f" {whole - len(rows)} of the {whole} combinations have no finished run yet."
    )
    shared = " and one proposal network" if isinstance(table.proposals, list) else ""
    return (
        f"Table {table.name}, data={table.data}, {seeds} seed(s). Metrics are in percent. Intervals (±) are Student's "
        "95 % intervals over seeds unless the text says otherwise; a single run has none. The seed determines the "
        f"initial weights and the order of batches. All runs of a row share one data set{shared}.{missing}"
    )


def _runs(records: Sequence[Record]) -> pd.DataFrame:
    """A line per run: operator, stride, seed, the axes and switches that vary, metrics, seconds."""
    switches = [operator_switches(record) for record in records]
    varied = [key for key in switches[0] if len({str(s.get(key)) for s in switches}) > 1]
    points = [m for m in MAIN if m.startswith("keypoints") and any(value(r, m) is not None for r in records)]
    metrics = [*MAIN[3:6], *MAIN[:3], *_SIZES, *points]
    lines = []
    for record, settings in sorted(zip(records, switches, strict=True), key=lambda pair: str(pair[0]["id"])):
        numbers = {m: "" if (v := value(record, m)) is None else f"{v:.3f}" for m in metrics}
        line = {"roi_op": _operator(record), "stride": stride_of(record), "seed": record["seed"]}
        line |= record["axes"] | {key: settings.get(key) for key in varied} | numbers
        lines.append({**line, "seconds": record["manifest"]["seconds"]})
    return pd.DataFrame(lines, dtype=object)


def _operator(record: Record) -> str:
    """The run's operator: its value on the axis, its last override, or the default."""
    given = [o.removeprefix("roi_op=") for o in record["overrides"] if o.startswith("roi_op=")]
    return str(record["axes"].get("roi_op") or (given[-1] if given else "align"))


def _latex(title: str, frame: pd.DataFrame) -> str:
    text = frame.to_latex(index=False, escape=True, column_format="l" + "r" * (len(frame.columns) - 1))
    for character, command in _LATEX.items():
        text = text.replace(character, command)
    return f"% {title}\n{text}"


def _render(template: str, report: Any) -> str:
    environment = Environment(
        loader=PackageLoader("maskrcnn.ablation"),
        autoescape=lambda name: str(name).endswith("html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(report=report)
