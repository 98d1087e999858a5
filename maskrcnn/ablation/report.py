"""From the records of finished cells to cells.csv, report.md, report.html, report.tex and manifest.json."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from maskrcnn.ablation import plots as figures
from maskrcnn.ablation.claims import claims
from maskrcnn.ablation.document import (
    Block,
    Figure,
    Grid,
    Heading,
    Items,
    Paragraph,
    to_html,
    to_latex,
    to_markdown,
)
from maskrcnn.ablation.grid import Table
from maskrcnn.ablation.instances import given_boxes
from maskrcnn.ablation.record import Record
from maskrcnn.ablation.settings import settings
from maskrcnn.ablation.sizes import by_size
from maskrcnn.ablation.statistics import show, signed
from maskrcnn.ablation.summary import (
    METRICS,
    Difference,
    Row,
    differences,
    grid_rows,
    operator_switches,
    stride_of,
    value,
)
from maskrcnn.config.build import flat

_MAIN = (
    *("segm_AP", "segm_AP50", "segm_AP75", "bbox_AP", "bbox_AP50", "bbox_AP75"),
    *("keypoints_AP", "keypoints_AP50", "keypoints_AP75", "keypoints_APm", "keypoints_APl"),
)
# Settings of a run that say where and on what it runs.
_OF_A_RUN = (
    "seed",
    "run_dir",
    "device",
    "threads",
    "debug",
    "data.num_workers",
    "checkpoint.",
    "log.",
    "categories",
)
_CSV = (*_MAIN[3:6], *_MAIN[:3], "segm_APs", "segm_APm", "segm_APl")


def write_report(table: Table, records: Sequence[Record], out: Path) -> list[Path]:
    """Everything that ``out`` holds beside the records; the paths of the files."""
    rows = grid_rows(table, records)
    blocks = report(table, rows, out / "examples")
    title = f"{table.title} ({table.scale})"
    manifest = {
        "table": asdict(table),
        "cells": {record["id"]: record["manifest"] for record in records},
    }
    files = {
        "report.md": to_markdown(blocks),
        "report.html": to_html(blocks, title),
        "report.tex": to_latex(blocks),
        "manifest.json": json.dumps(manifest, indent=1),
    }
    for name, text in files.items():
        (out / name).write_text(text)
    _write_figures(blocks, out / "figures")
    _write_csv(out / "cells.csv", records)
    written = [out / "cells.csv", *(out / name for name in files)]
    if not table.pictures and (out / "runs" / "examples").is_dir():
        # Pictures of images that are not ours to share stay with the runs.
        with_pictures = out / "runs" / "report.html"
        with_pictures.write_text(to_html(report(table, rows, out / "runs" / "examples"), title))
        written.append(with_pictures)
    return written


def _write_figures(blocks: Sequence[Block], folder: Path) -> None:
    """The figures of this report; those of an earlier one go."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for block in blocks:
        if isinstance(block, Figure):
            (folder / f"{block.name}.svg").write_text(block.svg)


def report(table: Table, rows: Sequence[Row], images: Path) -> list[Block]:
    """The report's blocks, in the order they are read. images: the folder of the pictures to be shown."""
    kinds = [k for k in ("keypoints", "segm", "bbox") if all(k in row.records[0]["by_iou"] for row in rows)]
    plots = [figures.gains(table, rows, f"{kinds[0]}_AP") if kinds else None]
    plots += [figures.iou_curves(table, rows, kind) for kind in kinds]
    plots += [figures.size_gain(table, rows, kind) for kind in kinds]
    plots += [figures.stride_gain(table, rows, f"{kinds[0]}_AP") if kinds and table.compare else None]
    plots += [figures.learning_curves(table, rows), figures.example_images(table, rows, images)]
    blocks: list[Block | None] = [
        Heading(table.title, 1),
        Paragraph(_introduction(table, rows)),
        _results(table, rows),
        *_claims(table, rows),
        *_differences(table, rows),
        *_paper(table, rows),
        *by_size(table, rows, kinds),
        *given_boxes(table, rows),
        *_cross(table, rows),
        Heading("Figures"),
        *plots,
        *settings(table, rows),
        *_made(table, rows),
    ]
    return [block for block in blocks if block is not None]


def _introduction(table: Table, rows: Sequence[Row]) -> str:
    counts = sorted({len(row.records) for row in rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    whole = int(np.prod([len(values) for values in table.axes.values()]))
    missing = (
        "" if len(rows) == whole else f" {whole - len(rows)} of the {whole} places have no finished run yet."
    )
    return (
        f"Table {table.name} at scale {table.scale}; {seeds} run(s) per cell. Figures are percent. An interval "
        "(±) is Student's 95 % over seeds, which a single run has not; where one is of objects or images instead, "
        f"the text there says so. {_fixed(table)}{missing}"
    )


def _fixed(table: Table) -> str:
    """What the seeds do not vary, so that no interval tells of it."""
    shared = " and one proposal network" if isinstance(table.proposals, list) else ""
    return f"A seed sets the first weights and the order of the batches; all runs of a row have one data set{shared}."


def _results(table: Table, rows: Sequence[Row]) -> Grid:
    metrics = [m for m in _MAIN if any(row.values(m) for row in rows)]
    header = [*table.axes, "runs", *(_name(m) for m in metrics)]
    lines = [
        [*row.axes.values(), str(len(row.records)), *(show(row.estimate(m)) for m in metrics)] for row in rows
    ]
    return Grid(f"{table.name}-{table.scale}", header, lines)


def _claims(table: Table, rows: Sequence[Row]) -> list[Block]:
    found = claims(table, rows)
    text = (
        "Read from the paper's Tables 2c and 2d and its section 4.1. How little is about nothing it does not say: "
        "here a quarter of align − pool."
    )
    heading = Heading("What the paper claims, and what these runs say")
    return [heading, Paragraph(text), Items(found)] if found else []


def _differences(table: Table, rows: Sequence[Row]) -> list[Block]:
    found = differences(table, rows, _MAIN)
    if not found:
        return []
    others = [axis for axis in table.axes if table.compare and axis != table.compare.axis]
    header = [*others, "difference", "metric", "by seed", "within images", "resolved", "share lost", "paper"]
    text = (
        "By seed: the mean of the paired differences of runs with the same seed. Within images: of the AP within each "
        "image by itself, the seeds averaged, bootstrapped over images; it is another figure than AP, which ranks the "
        "detections of all images together, and its interval knows nothing of what another seed would change. "
        "Resolved: the intervals that there are exclude 0, on the same side; nothing is adjusted for the number of "
        f"lines ({len(found)}), of which one in twenty would exclude 0 by chance if nothing differed. "
        "Share lost: (first − second) / first, where the first is what the others are compared with."
    )
    return [
        Heading("Differences"),
        Paragraph(text),
        Grid("differences", header, [_difference_line(d, others) for d in found]),
    ]


def _difference_line(d: Difference, others: Sequence[str]) -> list[str]:
    intervals = [e for e in (d.by_seed, d.by_image) if e is not None and e.low is not None]
    agree = all(e.resolved for e in intervals) and len({e.mean > 0 for e in intervals}) == 1
    resolved = "one run" if d.by_seed.low is None else "yes" if agree else "no"
    share = "" if d.share is None else show(d.share, scale=100, unit=" %")
    paper = "new" if d.paper is None else signed(d.paper)
    names = [d.axes[axis] for axis in others]
    by_seed, by_image = show(d.by_seed, sign=True), "" if d.by_image is None else show(d.by_image, sign=True)
    return [*names, f"{d.first} − {d.second}", _name(d.metric), by_seed, by_image, resolved, share, paper]


def _paper(table: Table, rows: Sequence[Row]) -> list[Block]:
    if not table.paper:
        return []
    # Against other data's figures a difference says nothing.
    columns = ["paper", "here − paper"] if table.scale == "coco" else ["paper"]
    lines = []
    for row in rows:
        published = table.published(row.axes)
        for metric in (m for m in _MAIN if row.values(m)):
            own = row.estimate(metric)
            assert own is not None
            there = published.get(metric)
            beside = ["new", ""] if there is None else [f"{there:.1f}", signed(own.mean - there)]
            lines.append([*row.axes.values(), _name(metric), show(own), *beside[: len(columns)]])
    text = "The paper's figures are COCO's with an ImageNet backbone; where the scale differs, compare the differences."
    header = [*table.axes, "metric", "here", *columns]
    return [Heading("Beside the paper"), Paragraph(text), Grid("paper", header, lines)]


def _cross(table: Table, rows: Sequence[Row]) -> list[Block]:
    if table.cross is None or not any(row.records[0].get("tested_with") for row in rows):
        return []
    values = list(table.axes[table.cross])
    lines = []
    for row in rows:
        first = row.records[0]
        own = row.axes[table.cross]
        tested = {own: first["metrics"], **first["tested_with"]}
        figures_of = [
            tested.get(v, {}).get("segm", tested.get(v, {}).get("bbox", {})).get("AP") for v in values
        ]
        lines.append([*row.axes.values(), *("–" if f is None else f"{f:.1f}" for f in figures_of)])
    text = (
        "Mask AP of the first seed's models when they are tested with each operator; "
        "a row says what the model learnt with."
    )
    header = [*table.axes, *(f"tested with {v}" for v in values)]
    return [Heading("Trained with one, tested with another"), Paragraph(text), Grid("cross", header, lines)]


def _made(table: Table, rows: Sequence[Row]) -> list[Block]:
    manifests = [record["manifest"] for row in rows for record in row.records]
    seconds = [m["seconds"] for m in manifests]
    machines = sorted({m["machine"] for m in manifests})
    commits = Counter(m["commit"] for m in manifests)
    made = ", ".join(f"{commit} ({count} runs)" for commit, count in sorted(commits.items()))
    changed = " (+: with changes that were not committed)" if any("+" in c for c in commits) else ""
    versions = sorted({f"torch {m['versions']['torch']}" for m in manifests})
    texts = [
        f"{len(seconds)} runs, {sum(seconds) / 60:.0f} minutes together, {min(seconds) / 60:.1f} to "
        f"{max(seconds) / 60:.1f} minutes each (with or without other runs beside them), "
        f"at most {max(m['peak_memory_mib'] for m in manifests)} MiB",
        f"machine: {'; '.join(machines)}; {', '.join(versions)}",
        f"commit: {made}{changed}; every run's config and versions are in manifest.json",
        *([] if not isinstance(table.proposals, list) else _shared(manifests)),
        *_uneven(rows),
    ]
    return [Heading("How it was made"), Items(texts)]


def _uneven(rows: Sequence[Row]) -> list[str]:
    """Settings in which runs of one row differ beside their seed: defaults that changed between commits, say."""
    found: dict[str, None] = {}
    for row in (r for r in rows if len(r.records) > 1):
        configs = [flat(record["manifest"]["config"]) for record in row.records]
        for key in sorted(set().union(*configs)):
            values = {json.dumps(config.get(key, "not there")) for config in configs}
            if len(values) > 1 and not key.startswith(_OF_A_RUN):
                found[f"{key} ({' or '.join(sorted(values))})"] = None
    return [f"runs of one row differ in more than their seed: {', '.join(found)}"] if found else []


def _shared(manifests: Sequence[Record]) -> list[str]:
    """Whether all runs had the same proposals and starting weights, as far as they say which."""
    known = sorted({m["shared"] for m in manifests if "shared" in m})
    unknown = sum("shared" not in m for m in manifests)
    if not known:
        return [f"the {unknown} runs are from before a run said which proposals and starting weights it had"]
    beside = f"; {unknown} older runs do not say" if unknown else ""
    if len(known) == 1:
        return [f"one set of proposals and starting weights: {known[0]}{beside}"]
    counts = ", ".join(f"{name} ({sum(m.get('shared') == name for m in manifests)} runs)" for name in known)
    return [f"{len(known)} sets of proposals and starting weights, not one: {counts}{beside}"]


def _name(metric: str) -> str:
    kind, name = METRICS[metric]
    return f"{figures.KINDS[kind]} {name}"


def _operator(record: Record) -> str:
    """Of the axis, or the last one that the run was told, or the default."""
    if "roi_op" in record["axes"]:
        return str(record["axes"]["roi_op"])
    told = [o.removeprefix("roi_op=") for o in record["overrides"] if o.startswith("roi_op=")]
    return told[-1] if told else "align"


def _write_csv(path: Path, records: Sequence[Record]) -> None:
    """One row per run: operator, stride, seed, every axis and switch that varies, metrics, seconds."""
    switches = [operator_switches(record) for record in records]
    varied = [key for key in switches[0] if len({str(s.get(key)) for s in switches}) > 1]
    axes = [axis for axis in records[0]["axes"] if axis not in ("roi_op", "stride")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        points = [m for m in _MAIN[6:] if any(value(record, m) is not None for record in records)]
        writer.writerow(["roi_op", "stride", "seed", *axes, *varied, *_CSV, *points, "seconds"])
        for record, settings in sorted(zip(records, switches, strict=True), key=lambda pair: pair[0]["id"]):
            numbers = ["" if (v := value(record, m)) is None else f"{v:.3f}" for m in (*_CSV, *points)]
            operator = _operator(record)
            own = [record["axes"][axis] for axis in axes] + [settings.get(key) for key in varied]
            head = [operator, stride_of(record), record["seed"]]
            writer.writerow([*head, *own, *numbers, record["manifest"]["seconds"]])
