"""Run the paper's ablations: a table of training runs and its report.

Usage: maskrcnn ablate [table=strides] [scale=shapes] [seeds=1] [key=value ...]

Trains every run of the table, then writes report.md, report.html, report.tex, cells.csv and manifest.json into out.
When it is started again, it does what is missing.

Examples:
  maskrcnn ablate                                              align, warp, pool at strides 16 and 32, on shapes
  maskrcnn ablate seeds=5 out=results/strides-shapes
  maskrcnn ablate table=switches seeds=3                       which difference between pool and align matters
  maskrcnn ablate table=2c scale=coco data.root=DIR nproc=8    the paper's Table 2c
  maskrcnn ablate table=2c scale=coco data.root=DIR launcher=submitit_slurm hydra.launcher.partition=gpu

table and scale name a file of configs/tables/.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from maskrcnn.ablation.grid import Cell, Table, read_table
from maskrcnn.ablation.report import write_report
from maskrcnn.ablation.run import Processes, Runner
from maskrcnn.config import compose as configs
from maskrcnn.config import files
from maskrcnn.console import console
from maskrcnn.errors import Interrupted, Positive, UserError
from maskrcnn.training.interruption import Interruption
from maskrcnn.training.provenance import cores

TABLES = files.CONFIG_DIR / "tables"


@dataclass
class Ablate:
    """The keys of configs/ablate.yaml."""

    table: str | int = "strides"  # 3 and 6 are tables of the paper
    scale: str = "shapes"
    seeds: Positive = 1
    out: str | None = None
    jobs: Positive | None = None
    threads: Positive | None = None
    nproc: Positive = 1
    launcher: str | None = None
    report_only: bool = False
    debug: bool = False


class Plan(NamedTuple):
    """What a call has to do: the table, its runner, and the cells without a record."""

    settings: DictConfig
    table: Table
    runner: Runner
    jobs: int
    missing: list[Cell]


def plan(arguments: Sequence[str]) -> Plan:
    """The work that ``arguments`` ask for, every missing cell's config checked: mistakes show before hours of work."""
    own, rest = configs.split([a for a in arguments if not a.startswith("hydra.")], Ablate)
    settings = configs.compose_config("ablate", own, Ablate)
    jobs, threads = _shares(settings.jobs, settings.threads, settings.nproc)
    chosen = any(argument.startswith("device=") for argument in rest)
    runner = _runner(settings, rest, threads, [] if chosen else _devices(jobs, settings.nproc))
    table = runner.table
    missing = [cell for cell in table.cells(settings.seeds) if not runner.is_done(cell)]
    if not settings.report_only:
        for cell in (c for c in missing if c.seed == missing[0].seed):
            configs.compose_config("train", runner.overrides(cell))
    return Plan(settings, table, runner, jobs, missing)


def main(arguments: Sequence[str]) -> None:
    """Run what is missing of the table, retry what failed, and report what is there."""
    settings, table, runner, jobs, missing = plan(arguments)
    number = len(table.cells(settings.seeds))
    console.print(
        f"{table.name}-{table.scale}: {number} cells, {number - len(missing)} finished in {runner.out}"
    )
    failed: list[str] = []
    if missing and not settings.report_only:
        interruption = Interruption("stopping when the runs have saved", runner.processes.stop)
        with interruption.watched():
            runner.prepare()
            if settings.launcher is not None:
                failed = _launch_all(runner, missing, settings.launcher, arguments)
            else:
                failed = _run_all(runner, missing, jobs)
        if interruption.requested:
            left = sum(not runner.is_done(cell) for cell in missing)
            raise Interrupted(f"{left} of {number} cells are left; the same command goes on with them")
    if any((runner.out / "cells").glob("*.json")) or not failed:
        _report(table, runner.out)
    if failed:
        logs = "\n".join(f"  {name}: {runner.log(name)}" for name in failed)
        raise UserError(f"{len(failed)} cells failed twice; what they printed is in\n{logs}")


def _shares(jobs: int | None, threads: int | None, nproc: int) -> tuple[int, int]:
    """Runs side by side, and the CPU threads of each of their processes."""
    if jobs is None:
        gpus = torch.cuda.device_count()
        jobs = max(gpus // nproc, 1) if gpus else min(cores(), 2)
    return jobs, threads or max(cores() // (jobs * nproc), 1)


def _devices(jobs: int, nproc: int) -> list[str]:
    """For each of the runs side by side the GPUs of its own, as CUDA_VISIBLE_DEVICES; empty without a GPU."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.device_count():
        return []
    return [",".join(names[(job * nproc + i) % len(names)] for i in range(nproc)) for job in range(jobs)]


def _run_all(runner: Runner, cells: Sequence[Cell], jobs: int) -> list[str]:
    """Run the cells, ``jobs`` at a time; the ids of what failed twice."""

    def run(cells: Sequence[Cell]) -> list[Cell]:
        with ThreadPoolExecutor(jobs) as pool:
            results = list(pool.map(runner.run, cells))
        return [cell for cell, good in zip(cells, results, strict=True) if not good]

    return _failing_twice(run, runner, cells)


def _launch_all(runner: Runner, cells: Sequence[Cell], launcher: str, arguments: Sequence[str]) -> list[str]:
    """Hand the cells to a launcher of Hydra's; the ids of what failed twice."""
    if launcher.startswith("submitit") and importlib.util.find_spec("submitit") is None:
        raise UserError(f"launcher={launcher} needs hydra-submitit-launcher: pip install 'maskrcnn[slurm]'")

    def run(cells: Sequence[Cell]) -> list[Cell]:
        _launch(arguments, cells, launcher, runner.out / "jobs")
        return [cell for cell in cells if not runner.is_done(cell)]

    return _failing_twice(run, runner, cells)


def _failing_twice(
    run: Callable[[Sequence[Cell]], list[Cell]], runner: Runner, cells: Sequence[Cell]
) -> list[str]:
    """What ``run`` returns as failed is run once more; the ids of what failed again."""
    for attempt in ("failed and is tried again", "failed twice"):
        cells = run(cells)
        if runner.processes.stopped or not cells:
            break
        for cell in cells:
            console.print(f"{cell.id} {attempt}: {runner.log(cell.id)}")
    return [cell.id for cell in cells]


def _launch(arguments: Sequence[str], cells: Sequence[Cell], launcher: str, folder: Path) -> None:
    """One job for each cell; ``hydra.*`` arguments are the launcher's settings, ``folder`` is for what it writes."""
    options = [a for a in arguments if a.startswith("hydra.")]
    own = [
        a for a in arguments if a not in options and a.partition("=")[0] not in ("launcher", "report_only")
    ]
    command = [
        *(sys.executable, "-m", "maskrcnn.cli.ablate_cell", "--multirun"),
        f"hydra/launcher={launcher}",
        f"hydra.sweep.dir={folder}",
        *options,
        f"cell={','.join(cell.id for cell in cells)}",
        f"arguments={json.dumps(own)}",
    ]
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(f"launcher={launcher} failed: see above, and what the jobs wrote in {folder}")


def run_one(arguments: Sequence[str], cell_id: str) -> bool:
    """One cell by its id, with the arguments of `main`; whether it ended well."""
    own, rest = configs.split(arguments, Ablate)
    settings = configs.compose_config("ablate", own, Ablate)
    runner = _runner(settings, rest, settings.threads or torch.get_num_threads())
    cell = next(cell for cell in runner.table.cells(settings.seeds) if cell.id == cell_id)
    return runner.run(cell)


def _runner(settings: DictConfig, rest: Sequence[str], threads: int, devices: Sequence[str] = ()) -> Runner:
    own = Path("configs/tables")  # of the working directory
    folder = own if (own / f"{settings.table}-{settings.scale}.yaml").is_file() else TABLES
    table = read_table(folder, str(settings.table), settings.scale)
    out = Path(settings.out or f"results/{table.name}-{table.scale}")
    return Runner(table, out, tuple(rest), threads, settings.nproc, Processes(devices))


def _report(table: Table, out: Path) -> None:
    records = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    if not records:
        raise UserError(f"no finished cell in {out / 'cells'}, so there is nothing to report")
    for path in write_report(table, records, out):
        console.print(f"written: {path}")
