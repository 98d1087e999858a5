"""One cell of a table as a job of Hydra's launchers (SLURM through submitit): see tools/ablate.py launcher=."""

from __future__ import annotations

from dataclasses import dataclass, field

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from maskrcnn.cli.ablate import run_one


@dataclass
class Job:
    """cell: the id of a cell. arguments: of tools/ablate.py."""

    cell: str = ""
    arguments: list[str] = field(default_factory=list)


ConfigStore.instance().store(name="job", node=Job)


@hydra.main(version_base="1.3", config_path=None, config_name="job")
def main(job: Job) -> None:
    """Run the cell. One that fails has no record, which tells tools/ablate.py; a failing job would hide the others."""
    of_the_job = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # or the configs of the cell cannot be composed
    run_one(list(job.arguments), job.cell)
    GlobalHydra.instance().hydra = of_the_job


if __name__ == "__main__":
    main()
