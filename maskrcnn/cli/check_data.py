"""Check a complete data set and list its defects.

Usage: maskrcnn check-data annotations=FILE images=DIR | data=folder data.root=DIR | voc=VOCdevkit/VOC2007 | sbd=DIR

Prints counts, classes, sizes and every defect with its file, id and remedy. The exit status is 1 if there are defects.
  figure=FILE.png   classes and sizes as a plot
  --fix             writes A_fixed.json next to A.json, without the defective entries
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.check import Findings, check_coco, check_sbd, check_voc
from maskrcnn.data.clean import cleaned, with_classes_of
from maskrcnn.data.defects import Defect, Effect, Kind, grouped
from maskrcnn.data.folders.source import FolderSource
from maskrcnn.data.formats.coco_json import load_annotations, select
from maskrcnn.errors import UserError

KEYS = ("annotations", "images", "voc", "sbd", "figure", "crowds", "classes", "debug")
DEFECTS_FOUND = 1
_SHOWN = 10  # number of defects of one kind to print
_LABELS = {Effect.CONVERTED: "converted", Effect.NOTED: "note"}


def main(arguments: Sequence[str]) -> None:
    """Print counts and defects. Exits with status 1 if there are defects."""
    fix = "--fix" in arguments
    own, of_data = split_data([argument for argument in arguments if argument != "--fix"])
    values = read_arguments(own, KEYS)
    given = [key for key in ("annotations", "voc", "sbd") if key in values] + (["data"] if of_data else [])
    if len(given) != 1:
        raise UserError(
            "give either annotations=A.json images=DIR, or data=folder data.root=DIR, or voc=.../VOC2007, or sbd=DIR"
        )
    if fix and given != ["annotations"]:
        raise UserError(
            "--fix cleans COCO-format json: tools/prepare_data.py from=DIR to=OUT writes a folder as such; VOC's and "
            "SBD's files must be unpacked again"
        )
    if given == ["voc"]:
        found = {"": check_voc(Path(values["voc"]))}
    elif given == ["sbd"]:
        found = {"": check_sbd(Path(values["sbd"]))}
    elif given == ["data"]:
        found = dict(_folder(of_data))
    else:
        found = {"": _coco(values, fix)}
    for part, findings in found.items():
        _print(findings, part, values)
    if not all(defect.harmless for findings in found.values() for defect in findings.defects):
        sys.exit(DEFECTS_FOUND)


def _print(findings: Findings, part: str, values: dict[str, str]) -> None:
    """Print counts and defects of a split, and draw the plot that ``figure=`` names."""
    for line in [*([f"part {part}"] if part else []), *findings.lines(), *_listed(findings.defects)]:
        print(line)
    if "figure" in values:
        path = Path(values["figure"])
        draw_histograms(findings, path.with_stem(f"{path.stem}_{part}") if part else path)


def _folder(of_data: Sequence[str]) -> Iterator[tuple[str, Findings]]:
    """Yield the findings of each split of a folder."""
    parts = folder_source(of_data).parts()
    print("\n".join(dict.fromkeys(line for part in parts.values() for line in part.report)))
    for name, part in parts.items():
        yield name, check_coco(part.content, part.images)[0]


def split_data(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into those of the command and those of the config group ``data``."""
    of_data = [a for a in arguments if a.partition("=")[0].partition(".")[0] == "data"]
    return [a for a in arguments if a not in of_data], of_data


def folder_source(of_data: Sequence[str]) -> FolderSource:
    """The source of ``data=folder`` with these keys, or of a custom config of that kind."""
    from maskrcnn.config import compose as configs  # lazily, because it imports torch, which takes seconds

    chosen = [] if any(argument.startswith("data=") for argument in of_data) else ["data=folder"]
    source = configs.build(configs.compose_config("train", [*chosen, *of_data]).data.source)
    if not isinstance(source, FolderSource):
        raise UserError(f"{' '.join(of_data)}: this command only reads data=folder")
    return source


def _listed(defects: Sequence[Defect]) -> Iterator[str]:
    """A line for each defect, limited to the first ones of each kind."""
    kinds: dict[Kind, list[Defect]] = {}
    for defect in defects:
        kinds.setdefault(defect.kind, []).append(defect)
    for kind, found in kinds.items():
        label = _LABELS.get(kind.effect, "defect")
        yield from (f"{label}: {defect}" for defect in found[:_SHOWN])
        if len(found) > _SHOWN:
            yield f"{label}: ... and {len(found) - _SHOWN} more of this kind, {len(found)} in all"


def _coco(values: dict[str, str], fix: bool) -> Findings:
    if "images" not in values:
        raise UserError("annotations=A.json needs images=DIR, the folder with its images")
    if values.get("crowds", "objects") != "objects" or (not fix and {"crowds", "classes"} & set(values)):
        raise UserError("crowds=objects and classes=OTHER.json are for --fix, which writes the file")
    path, folder = Path(values["annotations"]), Path(values["images"])
    data = load_annotations(path)
    findings, _ = check_coco(data, folder)
    if fix:
        _write_cleaned(path, folder, data, values)
    return findings


def _write_cleaned(path: Path, folder: Path, data: dict[str, Any], values: dict[str, str]) -> None:
    content, defects = cleaned(data, folder, "crowds" in values)
    if "classes" in values:
        other = select(load_annotations(Path(values["classes"])), None).categories
        content = with_classes_of(content, other, values["classes"], defects)
    out = path.with_name(f"{path.stem}_fixed.json")
    out.write_text(json.dumps(content))
    did = {Effect.CONVERTED: "converted", Effect.NOTED: "kept", Effect.PART: "left out a part of"}
    for found in grouped(defects):
        print(f"--fix {did.get(found[0].effect, 'dropped')} {len(found)} x {found[0].words}")
    kept = (f"{len(content[key])} of {len(data[key])} {key}" for key in ("images", "annotations"))
    print(f"wrote {out}: kept {' and '.join(kept)}")


def read_arguments(arguments: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Parse ``key=value`` arguments. Raises UserError for other arguments and keys."""
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in keys:
            raise UserError(
                f"unknown argument {argument!r}; known are {', '.join(f'{key}=' for key in keys)}"
            )
        values[key] = value
    return values


def draw_histograms(findings: Findings, path: Path) -> None:
    """Plot classes and sizes."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(10, 4), layout="constrained")
    classes, sizes = figure.subplots(1, 2)
    most = findings.classes.most_common(30)
    classes.barh([name for name, _ in most][::-1], [count for _, count in most][::-1])
    classes.tick_params(axis="y", labelsize=6)
    classes.set_xlabel("objects")
    if findings.sides:
        sizes.hist(findings.sides, bins=np.geomspace(1, max(max(findings.sides), 2), 40).tolist())
    sizes.set_xscale("log")
    sizes.set_xlabel("side of the object, square root of its area, pixels")
    figure.savefig(path, dpi=120)
