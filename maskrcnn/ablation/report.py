"""Writes a table's report: runs.csv, report.md, report.html, report.tex and manifest.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from maskrcnn.ablation import plots, tables
from maskrcnn.ablation.claims import claims, sentences
from maskrcnn.ablation.examples import example_images
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.plot import Plot
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.summary import Row, grid_rows, kinds_of, operator_switches, stride_of, value
from maskrcnn.ablation.tables import MAIN, Section
from maskrcnn.training.recipe import flat

# Settings of a single run and its machine. They may differ within a row.
_OF_A_RUN = (
    *("seed", "run_dir", "device", "threads", "debug", "data.num_workers"),
    *("checkpoint.", "log.", "categories"),
)
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
    report = _assemble(table, rows, out / "examples")
    manifest = {"table": asdict(table), "runs": {record["id"]: record["manifest"] for record in records}}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    _runs(records).to_csv(out / "runs.csv", index=False)
    written = [out / "manifest.json", out / "runs.csv", *write_pages(report, out)]
    private = out / "runs" / "examples"
    if not table.pictures and private.is_dir():
        # Pictures that may not be published: their page is written to the folder that is not committed.
        page = out / "runs" / "report.html"
        page.write_text(_render("html", replace(report, examples=example_images(rows, private))))
        written.append(page)
    return written


def write_pages(report: Report, out: Path) -> list[Path]:
    """Write report.md with its plots in ``out/plots``, report.html and report.tex.

    Args:
        report: content of the report.
        out: folder of the results. Earlier files in ``out/plots`` are removed.

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
    for suffix in ("md", "html"):
        (out / f"report.{suffix}").write_text(_render(suffix, report))
    frames = [(section.title, frame) for section in report.sections for _, frame in section.tables]
    (out / "report.tex").write_text("\n".join(_latex(title, frame) for title, frame in frames))
    return [out / f"report.{suffix}" for suffix in ("md", "html", "tex")]


def _assemble(table: Table, rows: Sequence[Row], images: Path) -> Report:
    """The content of a table's report, with example pictures from the folder ``images``."""
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
        claims=pd.DataFrame(
            [(c.claim, c.here, c.paper, c.verdict.value) for c in claims(table, rows)],
            columns=["claim", "here", "paper", "holds"],
        ),
        sections=tables.sections(table, rows),
        lists=[
            ("Training settings", _settings(table, rows)),
            ("Time, machine and versions", _provenance(table, rows)),
        ],
    )


def _introduction(table: Table, rows: Sequence[Row]) -> str:
    counts = sorted({len(row.records) for row in rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    whole = len(table.runs(seeds=1))
    left = whole - len(rows)
    missing = tables.TEXTS["missing"].format(missing=left, whole=whole) if left else ""
    shared = " and one proposal network" if isinstance(table.proposals, list) else ""
    text: str = tables.TEXTS["introduction"]
    return text.format(table=table, seeds=seeds, shared=shared, missing=missing)


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


def _render(suffix: str, report: Report) -> str:
    environment = Environment(
        loader=PackageLoader("maskrcnn.ablation"),
        autoescape=suffix == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"report.{suffix}.j2").render(report=report)


def _settings(table: Table, rows: Sequence[Row]) -> list[str]:
    """List the settings of the runs by topic. A setting that differs between runs has all its values."""
    records = [record for row in rows for record in row.records]
    configs = [flat(record["manifest"]["config"]) for record in records]
    lines = []
    for topic, keys in tables.TEXTS["settings"].items():
        found = [text for key in keys if (text := _setting(configs, key)) is not None]
        if found:
            lines.append(f"{topic}: {', '.join(found)}")
    images = sorted({len(record["per_image"]["ids"]) for record in records})
    return [
        *lines,
        f"proposals: {_proposals(table)}",
        f"validation images: {' or '.join(map(str, images))}",
        f"first run: tools/train.py {' '.join(records[0]['overrides'])}, with these proposals",
    ]


def _setting(configs: Sequence[dict[str, object]], key: str) -> str | None:
    """``steps 300``, or ``steps 200 / 300`` if runs differ. None if no run has the setting."""
    found: dict[str, None] = {}
    for config in configs:
        for name, setting in config.items():
            if f".{name}".endswith(f".{key}") and setting is not None and setting is not False:
                found[setting.split(".")[-1] if isinstance(setting, str) else json.dumps(setting)] = None
    return f"{key.removesuffix('._target_').split('.')[-1]} {' / '.join(found)}" if found else None


def _proposals(table: Table) -> str:
    if table.proposals is None:
        return "from the model's own RPN, trained jointly"
    if isinstance(table.proposals, str):
        return "ground-truth boxes"
    start = "; all runs start from its backbone" if table.start_from_proposals else ""
    return f"precomputed with one RPN that is trained separately ({' '.join(table.proposals)}){start}"


def _provenance(table: Table, rows: Sequence[Row]) -> list[str]:
    """List time, memory, machines, versions and commits of the runs, and unintended differences between runs."""
    manifests = [record["manifest"] for row in rows for record in row.records]
    minutes = [m["seconds"] / 60 for m in manifests]
    commits = Counter(m["commit"] for m in manifests)
    made = ", ".join(f"{commit} ({count} runs)" for commit, count in sorted(commits.items()))
    changed = " (+: with uncommitted changes)" if any("+" in commit for commit in commits) else ""
    versions = sorted({f"torch {m['versions']['torch']}" for m in manifests})
    return [
        f"{len(minutes)} runs, {sum(minutes):.0f} minutes in total, {min(minutes):.1f} to {max(minutes):.1f} minutes "
        f"each (runs may share the machine), peak memory {max(m['peak_memory_mib'] for m in manifests)} MiB",
        f"machine: {'; '.join(sorted({m['machine'] for m in manifests}))}; {', '.join(versions)}",
        f"commit: {made}{changed}; manifest.json has the config and versions of every run",
        *(_shared(manifests) if isinstance(table.proposals, list) else []),
        *_uneven(rows),
    ]


def _uneven(rows: Sequence[Row]) -> list[str]:
    """Settings other than the seed that differ within a row, for example defaults that changed between commits."""
    found: dict[str, None] = {}
    for row in (r for r in rows if len(r.records) > 1):
        configs = [flat(record["manifest"]["config"]) for record in row.records]
        for key in sorted(set().union(*configs)):
            values = {json.dumps(config[key]) if key in config else "missing" for config in configs}
            if len(values) > 1 and not key.startswith(_OF_A_RUN):
                found[f"{key} ({' or '.join(sorted(values))})"] = None
    return [f"runs of one row differ in more than their seed: {', '.join(found)}"] if found else []


def _shared(manifests: Sequence[Record]) -> list[str]:
    """Whether all runs used the same proposals and starting weights, as far as their records say so."""
    known = Counter(m["shared"] for m in manifests if "shared" in m)
    unknown = len(manifests) - known.total()
    if not known:
        used = "which proposals and starting weights were used"
        return [f"the records of the {unknown} runs do not say {used}"]
    older = f"; the records of {unknown} runs do not say it" if unknown else ""
    if len(known) == 1:
        return [f"one set of proposals and starting weights: {next(iter(known))}{older}"]
    counts = ", ".join(f"{name} ({count} runs)" for name, count in sorted(known.items()))
    return [f"{len(known)} sets of proposals and starting weights, not one: {counts}{older}"]
