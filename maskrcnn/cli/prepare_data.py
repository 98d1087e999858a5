"""Download a published data set, or convert a folder of another format to COCO.

Usage: maskrcnn prepare-data set=coco|voc2007|voc2012|sbd to=DIR
       maskrcnn prepare-data from=DIR to=OUT [data.format=...]

set=: repeat the command to resume a download. Archives are checked against their published checksums and unpacked only
into DIR.
  mirror=URL   download the archives from this address instead
  keep=true    keep the archives in DIR
from=: converts what data=folder reads, with any of its keys (data.rectangles=masks), to OUT/annotations/ and
OUT/train/, OUT/val/, OUT/test/. data=folder data.root=OUT reads the result. Images are copied.
  images=link  make symbolic links instead, which need the originals
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from maskrcnn.cli.check_data import folder_source, read_arguments, split_data
from maskrcnn.data.download import SETS, prepare
from maskrcnn.data.folders.source import write_coco
from maskrcnn.errors import UserError

KEYS = ("set", "from", "to", "images", "mirror", "keep", "debug")


def main(arguments: Sequence[str]) -> None:
    """Download the data set of ``set=`` into ``to=``, or convert the folder of ``from=`` to COCO there."""
    own, of_data = split_data(arguments)
    values = read_arguments(own, KEYS)
    if "from" in values:
        _convert(values, of_data)
        return
    if of_data:
        raise UserError(f"{of_data[0]} is for from=DIR, which writes a folder as COCO")
    name, target = values.get("set"), values.get("to")
    if name not in SETS or target is None:
        raise UserError(
            f"give set= one of {', '.join(SETS)} and to=DIR (found set={name}, to={target}), or from=DIR and to=OUT"
        )
    archives = SETS[name]
    if "mirror" in values:
        archives = tuple(replace(a, url=f"{values['mirror'].rstrip('/')}/{a.name}") for a in archives)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        prepare(archives, Path(target), show, keep=values.get("keep") == "true")
    print(f"{name} is ready in {target}")


def _convert(values: dict[str, str], of_data: Sequence[str]) -> None:
    if "to" not in values or values.get("images", "copy") not in ("copy", "link"):
        raise UserError("from=DIR needs to=OUT, and images= is copy (as without it) or link")
    root, out = Path(values["from"]), Path(values["to"])
    parts = folder_source([f"data.root={root}", *of_data]).parts()
    for line in write_coco(parts, root, out, link=values.get("images") == "link"):
        print(line)
    print(f"data=folder data.root={out} reads it")
