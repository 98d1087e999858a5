"""Trains one run of a table as a job of a Hydra launcher, such as SLURM through submitit."""

from __future__ import annotations

from dataclasses import dataclass, field

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from maskrcnn.cli.ablate import run_one


@dataclass
class Job:
    """Config of one job.

    Args:
        run: id of the run.
        arguments: arguments of ``maskrcnn ablate``.
    """

    run: str = ""
    arguments: list[str] = field(default_factory=list)


ConfigStore.instance().store(name="job", node=Job)


@hydra.main(version_base="1.3", config_path=None, config_name="job")
def main(job: Job) -> None:
    """Train the run. A failed run is recognised by its missing record.

    The job itself does not fail, because the launcher would then hide the results of the other jobs.
    """
    of_the_job = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # otherwise the configs of the run cannot be composed
    run_one(list(job.arguments), job.run)
    GlobalHydra.instance().hydra = of_the_job


if __name__ == "__main__":
    main()
