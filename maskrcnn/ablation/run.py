"""Trains the runs of a table by calling ``maskrcnn train``, and records them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from maskrcnn.ablation import record
from maskrcnn.ablation.grid import Run, Table
from maskrcnn.config import compose as configs
from maskrcnn.config.data import open_data
from maskrcnn.console import console
from maskrcnn.errors import UserError
from maskrcnn.training.run_dir import RunDir

# Keys of paths and the machine. They do not change what a run computes.
_OF_THE_MACHINE = (
    *("data.root=", "data.annotations=", "data.images=", "data.num_workers="),
    *("device=", "threads=", "checkpoint.every=", "log.every="),
)
COMMAND = ("-m", "maskrcnn.cli")


class Processes:
    """Runs commands from several threads, and stops all of them together.

    Args:
        devices: a value of CUDA_VISIBLE_DEVICES for each of the commands that run at a time. If empty, the variable
            is left as it is.
    """

    def __init__(self, devices: Sequence[str] = ()) -> None:
        self.stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._devices: SimpleQueue[str] | None = None
        if devices:
            self._devices = SimpleQueue()
            for names in devices:
                self._devices.put(names)

    def call(self, command: Sequence[str], output: IO[str]) -> bool:
        """Run a command and wait for its end.

        Args:
            command: the command.
            output: file for its output.

        Returns:
            Whether its exit status was 0.
        """
        if self.stopped:
            return False
        # Idle OpenMP threads would otherwise spin and take CPU time from the other runs.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        with (
            self._own_devices() as own,
            subprocess.Popen(command, stdout=output, stderr=output, env=environment | own) as process,
        ):
            self._running.add(process)
            if self.stopped:  # stopped while the command was started
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        return code == 0

    @contextmanager
    def _own_devices(self) -> Iterator[dict[str, str]]:
        """Environment variables that reserve GPUs for one command."""
        if self._devices is None:
            yield {}
            return
        names = self._devices.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": names}
        finally:
            self._devices.put(names)

    def stop(self) -> None:
        """Send SIGTERM to all commands, so that training saves and ends. No further command is started."""
        self.stopped = True
        for process in list(self._running):
            process.terminate()


@dataclass(frozen=True)
class Runner:
    """Trains the runs of a table in ``out/runs/<id>`` and records them in ``out/records/<id>.json``.

    A run is finished when it has a record.

    Args:
        table: the table.
        out: folder of the results.
        extra: overrides from the command line, applied after the table's own.
        threads: CPU threads per process.
        nproc: processes per run (torchrun).
        processes: runs the commands. After it is stopped, no run starts.
    """

    table: Table
    out: Path
    extra: tuple[str, ...]
    threads: int
    nproc: int
    processes: Processes = field(default_factory=Processes)

    def is_done(self, run: Run) -> bool:
        """Whether the run has a record.

        Raises:
            UserError: the record was made with other settings.
        """
        path = record.path_of(self.out, run.id)
        if not path.exists():
            return False
        made = json.loads(path.read_text())["overrides"]
        if made != (wanted := self._settings(run)):
            raise UserError(
                f"{path} was made with other settings:\n  {' '.join(made)}\nnot\n  {' '.join(wanted)}\n"
                "give another out=DIR, or remove the file to train the run again"
            )
        return True

    def overrides(self, run: Run) -> list[str]:
        """All overrides of ``maskrcnn train`` for the run."""
        given = ["metric=coco"]  # records have COCO's metrics, also for data sets with another default metric
        if self.table.proposals == "ground_truth":
            given += ["model.rpn=null", "proposals.train=ground_truth", "proposals.val=ground_truth"]
        elif self.table.proposals is not None:
            given += [f"proposals.{path.stem}={path}" for path in self._proposals]
            if self.table.start_from_proposals:
                given += [f"init.weights={self._shared / 'last.pt'}", "init.reset_heads=true"]
        own = [f"run_dir={self.folder(run.id)}", f"threads={self.threads}"]
        return [*given, *run.overrides, *self.extra, *own]

    def prepare(self) -> None:
        """Train the shared proposal network and store its proposals, if the table has one and they are missing.

        Raises:
            UserError: the training failed.
        """
        if not isinstance(self.table.proposals, list) or all(path.exists() for path in self._proposals):
            return
        console.print(f"training the proposal network that all runs share: {self.log('proposals')}")
        overrides = [*self.table.proposals, *self.extra, f"run_dir={self._shared}", "seed=0"]
        partial = self._shared / "proposals.partial"
        propose = [f"checkpoint={self._shared / 'last.pt'}", f"run_dir={partial}"]
        if self._train(overrides, "proposals") and self._call("propose", propose, "proposals"):
            partial.rename(self._shared / "proposals")
        elif not self.processes.stopped:
            raise UserError(f"the proposal network failed; its output is in {self.log('proposals')}")

    def run(self, run: Run) -> bool:
        """Train (or resume) and record one run. Returns whether it succeeded."""
        if self.processes.stopped:
            return False
        console.print(f"{run.id} begins")
        if not self._train(self.overrides(run), run.id):
            return False
        try:
            found = self._describe(run)
        except UserError as error:
            console.print(f"{run.id}: {error}")
            return False
        record.write(self.out, found)
        scored = ((kind, values["AP"]) for kind, values in found["metrics"].items())
        metrics = ", ".join(f"{kind} AP {ap:.1f}" for kind, ap in scored if ap is not None)
        console.print(f"{run.id} done in {found['manifest']['seconds'] / 60:.1f} min: {metrics}")
        return True

    def folder(self, name: str) -> Path:
        """Directory of a run, by its id."""
        return self.out / "runs" / name

    def log(self, name: str) -> Path:
        """File with the output of a run."""
        return self.out / "runs" / f"{name}.log"

    @property
    def _shared(self) -> Path:
        return self.folder("proposals")

    @property
    def _proposals(self) -> list[Path]:
        """The files of the shared proposals for train and val. Older results have json files."""
        folder = self._shared / "proposals"
        kind = "json" if (folder / "train.json").exists() else "npz"
        return [folder / f"{split}.{kind}" for split in ("train", "val")]

    def _digest(self) -> str:
        """Hash of the shared proposals and weights.

        It differs between runs of one table that were made on two machines, or before and after ``runs/`` was removed.
        """
        files = [*self._proposals, *([self._shared / "last.pt"] if self.table.start_from_proposals else [])]
        digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
        return hashlib.sha256(digests).hexdigest()[:16]

    def _settings(self, run: Run) -> list[str]:
        """The overrides that affect a run's result. Those of the machine and folders of files are left out."""
        given = (o for o in [*run.overrides, *self.extra] if not o.startswith(_OF_THE_MACHINE))
        return [_without_folder(override) for override in given]

    def _train(self, overrides: list[str], name: str) -> bool:
        """Call ``maskrcnn train``. If another process still trains this run, wait for its end first."""
        files = RunDir(self.folder(name))
        if (owner := files.owner()) is not None:
            console.print(f"{name} is being trained already, by {owner}: waiting for it")
            while files.owner() is not None and not self.processes.stopped:
                time.sleep(1)
        many = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.nproc}"]
        return self._call("train", overrides, name, many if self.nproc > 1 else [])

    def _call(self, command: str, arguments: Sequence[str], name: str, launcher: Sequence[str] = ()) -> bool:
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            return self.processes.call([sys.executable, *launcher, *COMMAND, command, *arguments], file)

    def _describe(self, run: Run) -> record.Record:
        run_dir = self.folder(run.id)
        config = configs.read_config(run_dir / "config.yaml")
        dataset = open_data(config, "val")
        annotations = dataset.ground_truth()
        predictions = json.loads((run_dir / "predictions.json").read_text())
        kinds = list(json.loads((run_dir / "metrics.json").read_text()))
        curve, seconds, memory = record.learning_curve(run_dir)
        found: dict[str, Any] = {
            "id": run.id,
            "table": self.table.name,
            "data": self.table.data,
            "axes": run.axes,
            "seed": run.seed,
            "overrides": self._settings(run),
            **record.scores(predictions, annotations, kinds, config.evaluation.max_dets, self.table.sizes),
            "curve": curve,
            "network_scale": record.network_scale(annotations, config.data.short_side, config.data.max_size),
            "examples": self._kept(record.examples(predictions, annotations), dataset.images),
            "tested_with": self._cross(run) if run.seed == 0 else {},
            "manifest": record.manifest(run_dir, configs.plain(config), seconds, memory),
        }
        if isinstance(self.table.proposals, list):
            found["manifest"]["shared"] = self._digest()
        if self.table.proposals == "ground_truth" and config.model.box_head is None:
            found["instances"] = record.instance_ious(predictions, annotations)
        return found

    def _kept(self, examples: list[record.Record], folder: Path) -> list[record.Record]:
        """Copy the example pictures, and return the examples with the names of the copies.

        Pictures that may not be published stay in the folder of the runs. The name of a copy has a hash of its content,
        because different data sets can have images of the same name.
        """
        kept = self.out / ("examples" if self.table.pictures else "runs/examples")
        kept.mkdir(parents=True, exist_ok=True)
        named = []
        for example in examples:
            path = folder / example["image"]["file_name"]
            name = f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}{path.suffix}"
            shutil.copyfile(path, kept / name)
            named.append({**example, "picture": name})
        return named

    def _cross(self, run: Run) -> dict[str, Any]:
        """Metrics of the run's model when it is tested with the other values of the crossed axis."""
        axis = self.table.cross
        tested = {}
        for value, overrides in self.table.axes[axis].items() if axis else ():
            if value == run.axes[str(axis)]:
                continue
            folder = self.folder(run.id) / f"tested_with_{value}"
            own = [f"checkpoint={self.folder(run.id) / 'last.pt'}", f"run_dir={folder}"]
            if not self._call("eval", [*own, f"threads={self.threads}", *overrides], run.id):
                raise UserError(f"testing {run.id} with {value} failed; its output is in {self.log(run.id)}")
            tested[value] = json.loads((folder / "metrics.json").read_text())
            shutil.rmtree(folder)
        return tested


def _without_folder(override: str) -> str:
    """``key=name`` for ``key=/folder/name``, so that a record holds for another machine and names no home directory."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{Path(value).name}" if value.startswith("/") else override
