"""Run the paper's ablations: a table of training runs and its report.

Usage: maskrcnn ablate [table=strides] [data=shapes] [seeds=1] [key=value ...]

Trains every run of the table, then writes report.md, report.html, report.tex, runs.csv and manifest.json into out.
Repeat the command to continue an interrupted table: finished runs are skipped. table=across trains nothing. It writes
one report on the strides tables of all data sets.

Examples:
  maskrcnn ablate                                              align, warp, pool at strides 16 and 32, on shapes
  maskrcnn ablate seeds=5 out=results/strides-shapes
  maskrcnn ablate table=switches seeds=3                       which difference between pool and align matters
  maskrcnn ablate table=2c data=coco data.root=DIR nproc=8     the paper's Table 2c
  maskrcnn ablate table=2c data=coco data.root=DIR launcher=submitit_slurm hydra.launcher.partition=gpu

table and data select the file configs/tables/<table>-<data>.yaml.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from maskrcnn.ablation.grid import Run, Table, read_table
from maskrcnn.config import compose as configs
from maskrcnn.config import files
from maskrcnn.console import console
from maskrcnn.errors import Interrupted, Positive, UserError
from maskrcnn.training import session
from maskrcnn.training.interruption import Interruption, interruptible

if TYPE_CHECKING:  # it imports torch, which takes seconds: a wrong key is refused before
    from maskrcnn.ablation.run import Runner

TABLES = files.CONFIG_DIR / "tables"


@dataclass
class Ablate:
    """Keys of ``maskrcnn ablate``. Every other key=value is passed to each run, for example data.root=DIR.

    Args:
        table: name of the table, or ``across``.
        data: data set of the table. The file configs/tables/<table>-<data>.yaml describes the table.
        seeds: number of runs of each combination, with seeds 0 to seeds - 1.
        out: folder of the results; None is results/<table>-<data>. Finished runs in it are skipped, and interrupted
            runs are resumed.
        jobs: number of runs at a time. None is 2 on a CPU with two or more cores and 1 with one core; on GPUs, as
            many as fit with ``nproc`` GPUs each.
        threads: CPU threads per process; None divides the cores evenly.
        nproc: processes per run, under torchrun.
        launcher: one of Hydra's launchers, for example ``submitit_slurm``. Its settings are hydra.launcher.* keys.
        report_only: write the report of the finished runs without training.
        debug: print tracebacks of errors.
    """

    table: str | int = "strides"  # the paper's tables 3 and 6 are integers
    data: str = "shapes"
    seeds: Positive = 1
    out: str | None = None
    jobs: Positive | None = None
    threads: Positive | None = None
    nproc: Positive = 1
    launcher: str | None = None
    report_only: bool = False
    debug: bool = False


class Plan(NamedTuple):
    """The work of a command.

    Attributes:
        settings: keys of the command.
        table: the table.
        runner: trains its runs.
        jobs: number of runs at a time.
        missing: runs without a record.
    """

    settings: DictConfig
    table: Table
    runner: Runner
    jobs: int
    missing: list[Run]


def plan(arguments: Sequence[str]) -> Plan:
    """Plan the work of a command, and check the config of every missing run before the first one is trained."""
    settings, rest = _settings(arguments)
    table = _table(settings)
    if not settings.report_only:
        own = [key.name for key in fields(Ablate)]
        with interruptible():
            configs.compose_config("train", [*table.runs(seeds=1)[0].overrides, *rest], others=own)
    jobs, threads = _shares(settings.jobs, settings.threads, settings.nproc)
    chosen = any(argument.startswith("device=") for argument in rest)
    runner = _runner(settings, table, rest, threads, [] if chosen else _devices(jobs, settings.nproc))
    missing = [run for run in table.runs(settings.seeds) if not runner.is_done(run)]
    if not settings.report_only:
        for run in (r for r in missing if r.seed == missing[0].seed):
            configs.compose_config("train", runner.overrides(run))
    return Plan(settings, table, runner, jobs, missing)


def main(arguments: Sequence[str]) -> None:
    """Train the missing runs of the table, try failed runs a second time, and report the finished ones."""
    if "table=across" in arguments:
        _across(arguments)
        return
    settings, table, runner, jobs, missing = plan(arguments)
    number = len(table.runs(settings.seeds))
    console.print(
        f"{table.name}-{table.data}: {number} runs, {number - len(missing)} finished in {runner.out}"
    )
    failed: list[str] = []
    if missing and not settings.report_only:
        interruption = Interruption("stopping when the runs have saved", runner.processes.stop)
        with interruption.watched():
            runner.prepare()
            if settings.launcher is None:
                failed = _trained(runner, missing, partial(_side_by_side, runner, jobs))
            else:
                failed = _trained(runner, missing, partial(_launch, arguments, settings.launcher, runner.out))
        if interruption.requested:
            left = sum(not runner.is_done(run) for run in missing)
            raise Interrupted(f"{left} of {number} runs are left; the same command resumes them")
    from maskrcnn.ablation import record
    from maskrcnn.ablation.report import write_report

    records = record.read_all(runner.out)
    if records:
        _print_written(write_report(table, records, runner.out))
    if failed:
        logs = "\n".join(f"  {name}: {runner.log(name)}" for name in failed)
        raise UserError(f"{len(failed)} runs failed twice; their output is in\n{logs}")
    if not records:
        raise UserError(f"no finished run in {runner.out / 'records'}, so there is nothing to report")


def _settings(arguments: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Split arguments into the keys of this command and overrides for the runs."""
    if earlier := [a.removeprefix("scale=") for a in arguments if a.startswith("scale=")]:
        raise UserError(f"scale={earlier[0]}: this key is now called data; give data={earlier[0]}")
    # In a run's config, data is a group, and Hydra would look for configs/data/<name>.yaml.
    data = [a.removeprefix("data=") for a in arguments if a.startswith("data=")]
    others = [a for a in arguments if not a.startswith(("data=", "hydra."))]
    settings, rest = configs.compose_command("ablate", others, Ablate)
    settings.data = [settings.data, *data][-1]
    return settings, rest


def _across(arguments: Sequence[str]) -> None:
    """Write the report across data sets from the records of the strides tables in the folder that contains ``out``."""
    settings, rest = _settings(arguments)
    if rest:
        raise UserError(
            f"table=across trains nothing, so it takes no settings of runs; remove {' '.join(rest)}"
        )
    with interruptible():
        from maskrcnn.ablation.across import write_across

    _print_written(write_across(_tables(), Path(settings.out or "results/across")))


def _tables() -> list[Path]:
    """Folders with tables: of the working directory, then of the package."""
    return [Path("configs/tables"), TABLES]


def _print_written(paths: Sequence[Path]) -> None:
    for path in paths:
        console.print(f"written: {path}")


def _shares(jobs: int | None, threads: int | None, nproc: int) -> tuple[int, int]:
    """Number of runs at a time, and CPU threads per process."""
    with interruptible():
        import torch

    if jobs is None:
        gpus = torch.cuda.device_count()
        jobs = max(gpus // nproc, 1) if gpus else min(session.cores(), 2)
    return jobs, threads or max(session.cores() // (jobs * nproc), 1)


def _devices(jobs: int, nproc: int) -> list[str]:
    """The GPUs of each simultaneous run, as values of CUDA_VISIBLE_DEVICES; empty without a GPU."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.device_count():
        return []
    return [",".join(names[(job * nproc + i) % len(names)] for i in range(nproc)) for job in range(jobs)]


def _trained(runner: Runner, runs: Sequence[Run], train: Callable[[Sequence[Run]], None]) -> list[str]:
    """Train the runs, and those that failed a second time.

    Args:
        runner: knows the records and log files, and whether it was stopped.
        runs: the runs.
        train: trains runs.

    Returns:
        The ids of the runs that failed again.
    """
    for outcome in ("failed and is tried again", "failed twice"):
        train(runs)
        runs = [run for run in runs if not runner.is_done(run)]
        if runner.processes.stopped or not runs:
            break
        for run in runs:
            console.print(f"{run.id} {outcome}: {runner.log(run.id)}")
    return [run.id for run in runs]


def _side_by_side(runner: Runner, jobs: int, runs: Sequence[Run]) -> None:
    """Train the runs, ``jobs`` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(runner.run, runs))


def _launch(arguments: Sequence[str], launcher: str, out: Path, runs: Sequence[Run]) -> None:
    """Start one job per run with a launcher, and wait for all of them.

    Args:
        arguments: arguments of this command. Those named ``hydra.*`` are settings of the launcher.
        launcher: one of Hydra's launchers.
        out: the results' folder; the launcher's files go to ``out``/jobs.
        runs: the runs.
    """
    if launcher.startswith("submitit") and importlib.util.find_spec("submitit") is None:
        raise UserError(f"launcher={launcher} needs hydra-submitit-launcher: pip install 'maskrcnn[slurm]'")
    options = [a for a in arguments if a.startswith("hydra.")]
    own = [
        a for a in arguments if a not in options and a.partition("=")[0] not in ("launcher", "report_only")
    ]
    folder = out / "jobs"
    command = [
        *(sys.executable, "-m", "maskrcnn.cli.ablate_run", "--multirun"),
        f"hydra/launcher={launcher}",
        f"hydra.sweep.dir={folder}",
        *options,
        f"run={','.join(run.id for run in runs)}",
        f"arguments={json.dumps(own)}",
    ]
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(f"launcher={launcher} failed: see above, and the output of the jobs in {folder}")


def run_one(arguments: Sequence[str], run_id: str) -> bool:
    """Train one run of a table.

    Args:
        arguments: as for `main`.
        run_id: id of the run.

    Returns:
        Whether it succeeded.
    """
    import torch

    settings, rest = _settings(arguments)
    runner = _runner(settings, _table(settings), rest, settings.threads or torch.get_num_threads())
    return runner.run(next(run for run in runner.table.runs(settings.seeds) if run.id == run_id))


def _table(settings: DictConfig) -> Table:
    folder = next((f for f in _tables() if (f / f"{settings.table}-{settings.data}.yaml").is_file()), TABLES)
    return read_table(folder, str(settings.table), settings.data)


def _runner(
    settings: DictConfig, table: Table, rest: Sequence[str], threads: int, devices: Sequence[str] = ()
) -> Runner:
    with interruptible():
        from maskrcnn.ablation.run import Processes, Runner

    out = Path(settings.out or f"results/{table.name}-{table.data}")
    return Runner(table, out, tuple(rest), threads, settings.nproc, Processes(devices))
