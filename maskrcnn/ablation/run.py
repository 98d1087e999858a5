"""A cell of a table: an ordinary run of tools/train.py in its own folder, then a record of it."""

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

from omegaconf import DictConfig, OmegaConf

from maskrcnn.ablation import record
from maskrcnn.ablation.grid import Cell, Table
from maskrcnn.config import build as assembly
from maskrcnn.console import console
from maskrcnn.errors import UserError
from maskrcnn.training.run_dir import RunDir

# Keys that say where and on what a cell runs, not what it computes.
_OF_THE_MACHINE = (
    "data.root=",
    "data.annotations=",
    "data.images=",
    "data.num_workers=",
    "device=",
    "threads=",
    "checkpoint.every=",
    "log.every=",
)
COMMAND = ("-m", "maskrcnn.cli")


def examples_folder(table: Table, out: Path) -> Path:
    """Where the images of the report's pictures are kept; only generated ones lie outside of the runs."""
    return out / "examples" if table.pictures else out / "runs" / "examples"


class Processes:
    """Commands that several threads run, stopped together.

    devices: a value of CUDA_VISIBLE_DEVICES for each command that runs at a time; none leaves it as it is.
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
        """Run ``command`` to its end, what it prints into ``output``; whether it ended well."""
        if self.stopped:
            return False
        # Idle threads that spin take the cores from the runs beside them.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        with (
            self._own_devices() as own,
            subprocess.Popen(command, stdout=output, stderr=output, env=environment | own) as process,
        ):
            self._running.add(process)
            if self.stopped:  # while it was begun
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        return code == 0

    @contextmanager
    def _own_devices(self) -> Iterator[dict[str, str]]:
        """What keeps a command to GPUs that no other one has while it runs."""
        if self._devices is None:
            yield {}
            return
        names = self._devices.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": names}
        finally:
            self._devices.put(names)

    def stop(self) -> None:
        """SIGTERM to what runs, so that training saves and leaves; nothing begins from now on."""
        self.stopped = True
        for process in list(self._running):
            process.terminate()


@dataclass(frozen=True)
class Runner:
    """Runs cells of ``table`` into ``out/runs/<cell>`` and records them in ``out/cells/<cell>.json``.

    extra: overrides from the command line, after the table's own. threads: of each run. nproc: processes of each run
    (torchrun). The record marks a cell as finished. processes: once they are stopped, nothing more begins.
    """

    table: Table
    out: Path
    extra: tuple[str, ...]
    threads: int
    nproc: int
    processes: Processes = field(default_factory=Processes)

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell has its record. Raises UserError where the record was made with other settings."""
        path = self._record(cell)
        if not path.exists():
            return False
        made = json.loads(path.read_text())["overrides"]
        if made != (wanted := self._settings(cell)):
            raise UserError(
                f"{path} was made with other settings:\n  {' '.join(made)}\nnot\n  {' '.join(wanted)}\n"
                "give another out=DIR, or remove the file to run the cell anew"
            )
        return True

    def overrides(self, cell: Cell) -> list[str]:
        """Everything that tools/train.py is called with."""
        given = ["metric=coco"]  # what a record holds, whatever the data's own metric is
        if self.table.proposals == "ground_truth":
            given += ["model.rpn=null", "proposals.train=ground_truth", "proposals.val=ground_truth"]
        elif self.table.proposals is not None:
            given += [f"proposals.{path.stem}={path}" for path in self._proposals]
            if self.table.start_from_proposals:
                given += [f"init.weights={self._shared / 'last.pt'}", "init.reset_heads=true"]
        own = [f"run_dir={self.folder(cell.id)}", f"threads={self.threads}"]
        return [*given, *cell.overrides, *self.extra, *own]

    def prepare(self) -> None:
        """Train the proposal network and store its proposals, unless that has been done."""
        if self.table.proposals is None or self.table.proposals == "ground_truth":
            return
        proposals = self._shared / "proposals"
        if not all(path.exists() for path in self._proposals):
            console.print(f"proposals that all cells share: {self.log('proposals')}")
            overrides = [*self.table.proposals, *self.extra, f"run_dir={self._shared}"]
            partial = self._shared / "proposals.partial"
            propose = [
                *(sys.executable, *COMMAND, "propose"),
                f"checkpoint={self._shared / 'last.pt'}",
                f"run_dir={partial}",
            ]
            if not (self._train([*overrides, "seed=0"], "proposals") and self._call(propose, "proposals")):
                if self.processes.stopped:
                    return
                raise UserError(f"the proposal network failed; what it printed is in {self.log('proposals')}")
            partial.rename(proposals)

    def run(self, cell: Cell) -> bool:
        """Train (or resume) and record one cell; whether that ended well."""
        if self.processes.stopped:
            return False
        console.print(f"{cell.id} begins")
        if not self._train(self.overrides(cell), cell.id):
            return False
        try:
            found = self._describe(cell)
        except UserError as error:
            console.print(f"{cell.id}: {error}")
            return False
        self._record(cell).parent.mkdir(parents=True, exist_ok=True)
        record.write(self._record(cell), found)
        figures = ", ".join(
            f"{kind} AP {values['AP']:.1f}"
            for kind, values in found["metrics"].items()
            if values["AP"] is not None
        )
        console.print(f"{cell.id} done in {found['manifest']['seconds'] / 60:.1f} min: {figures}")
        return True

    def folder(self, name: str) -> Path:
        """The run directory of a cell by its id."""
        return self.out / "runs" / name

    def log(self, name: str) -> Path:
        """What a run printed."""
        return self.out / "runs" / f"{name}.log"

    @property
    def _shared(self) -> Path:
        return self.folder("proposals")

    @property
    def _proposals(self) -> list[Path]:
        """The files of the shared proposals, train and val; older runs hold them as json."""
        folder = self._shared / "proposals"
        kind = "json" if (folder / "train.json").exists() else "npz"
        return [folder / f"{split}.{kind}" for split in ("train", "val")]

    def _digest(self) -> str | None:
        """Of what the cells share, the proposals and the weights they start from; None where they share nothing.

        Cells of one table that were made on two machines, or after ``runs/`` was removed, tell by it.
        """
        if not isinstance(self.table.proposals, list):
            return None
        files = self._proposals
        if self.table.start_from_proposals:
            files.append(self._shared / "last.pt")
        digest = hashlib.sha256()
        for path in files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def _record(self, cell: Cell) -> Path:
        return self.out / "cells" / f"{cell.id}.json"

    def _settings(self, cell: Cell) -> list[str]:
        """The overrides that decide what a cell computes; where its data lie and what it runs on do not."""
        given = [*cell.overrides, *self.extra]
        return [o for o in given if not o.startswith(_OF_THE_MACHINE)]

    def _train(self, overrides: list[str], name: str) -> bool:
        """Call tools/train.py; a run that outlived the ablation that began it is left to end first."""
        files = RunDir(self.folder(name))
        if (owner := files.owner()) is not None:
            console.print(f"{name} is being trained already, by {owner}: waiting for it")
            while files.owner() is not None and not self.processes.stopped:
                time.sleep(1)
        python = [sys.executable]
        if self.nproc > 1:
            python += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.nproc}"]
        return self._call([*python, *COMMAND, "train", *overrides], name)

    def _call(self, command: list[str], name: str) -> bool:
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            return self.processes.call(command, file)

    def _describe(self, cell: Cell) -> record.Record:
        run_dir = self.folder(cell.id)
        config = OmegaConf.load(run_dir / "config.yaml")
        assert isinstance(config, DictConfig)
        dataset = assembly.open_data(config, "val")
        annotations = dataset.ground_truth()
        predictions = json.loads((run_dir / "predictions.json").read_text())
        kinds = list(json.loads((run_dir / "metrics.json").read_text()))
        curve, seconds, memory = record.learning_curve(run_dir)
        found: dict[str, Any] = {
            "id": cell.id,
            "table": self.table.name,
            "scale": self.table.scale,
            "axes": cell.axes,
            "seed": cell.seed,
            "overrides": self._settings(cell),
            **record.figures(predictions, annotations, kinds, config.evaluation.max_dets, self.table.sizes),
            "curve": curve,
            "network_scale": record.network_scale(annotations, config.data.short_side, config.data.max_size),
            "examples": self._kept(record.examples(predictions, annotations), dataset.images),
            "tested_with": self._cross(cell) if cell.seed == 0 else {},
            "manifest": record.manifest(run_dir, seconds, memory),
        }
        if (shared := self._digest()) is not None:
            found["manifest"]["shared"] = shared
        if self.table.proposals == "ground_truth" and config.model.box_head is None:
            found["instances"] = record.instance_ious(predictions, annotations)
        return found

    def _kept(self, examples: list[record.Record], folder: Path) -> list[record.Record]:
        """The examples, each with the name of its picture: copied beside the report where it may be shared, else among
        the runs, under a name of its content, as cells of other data have other images of the same names."""
        kept = examples_folder(self.table, self.out)
        kept.mkdir(parents=True, exist_ok=True)
        named = []
        for example in examples:
            path = folder / example["image"]["file_name"]
            name = f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}{path.suffix}"
            shutil.copyfile(path, kept / name)
            named.append({**example, "picture": name})
        return named

    def _cross(self, cell: Cell) -> dict[str, Any]:
        """The cell's metrics when it is tested with the other values of the crossed axis."""
        axis = self.table.cross
        if axis is None:
            return {}
        tested = {}
        for value, overrides in self.table.axes[axis].items():
            if value == cell.axes[axis]:
                continue
            folder = self.folder(cell.id) / f"tested_with_{value}"
            command = [sys.executable, *COMMAND, "eval", f"checkpoint={self.folder(cell.id) / 'last.pt'}"]
            own = [f"run_dir={folder}", f"threads={self.threads}"]
            if not self._call([*command, *overrides, *own], cell.id):
                raise UserError(f"{cell.id} cannot be tested with {value}: {self.log(cell.id)}")
            tested[value] = json.loads((folder / "metrics.json").read_text())
            shutil.rmtree(folder)
        return tested
