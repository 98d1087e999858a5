"""Download and unpack a published data set.

Usage: maskrcnn prepare-data set=coco|voc2007|voc2012|sbd to=DIR

It resumes when it is started again. Archives are checked against their published checksums and unpacked only into DIR.
  mirror=URL   fetch the archives from this address instead
  keep=true    leave the archives in DIR
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from maskrcnn.cli.check_data import read_arguments
from maskrcnn.data.download import SETS, prepare
from maskrcnn.errors import UserError

KEYS = ("set", "to", "mirror", "keep", "debug")


def main(arguments: Sequence[str]) -> None:
    """Fetches what ``set=`` names into ``to=``."""
    values = read_arguments(arguments, KEYS)
    name, target = values.get("set"), values.get("to")
    if name not in SETS or target is None:
        raise UserError(f"give set= one of {', '.join(SETS)} and to=DIR (found set={name}, to={target})")
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
