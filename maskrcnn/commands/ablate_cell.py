"""One cell of a table as a job of Hydra's launchers (SLURM through submitit): see tools/ablate.py launcher=."""

from __future__ import annotations

from dataclasses import dataclass, field

import hydra
from hydra.core.config_store import ConfigStore

from maskrcnn.commands.ablate import run_one


@dataclass
class Job:
    """cell: the id of a cell. arguments: of tools/ablate.py."""

    cell: str = ""
    arguments: list[str] = field(default_factory=list)


ConfigStore.instance().store(name="job", node=Job)


@hydra.main(version_base="1.3", config_path=None, config_name="job")
def main(job: Job) -> None:
    """Run the cell; a failed one fails the job."""
    if not run_one(list(job.arguments), job.cell):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
