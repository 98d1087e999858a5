"""Writes checkpoints, and the file of a failed step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskrcnn.data.loader import TrainBatch
from maskrcnn.training.distributed import World
from maskrcnn.training.failure import describe, save_failed_step
from maskrcnn.training.guard import LossError, LossGuard, Report
from maskrcnn.training.learner import Learner, random_state
from maskrcnn.training.run_dir import RunDir


class Keeper:
    """Writes a run's state into its directory.

    Args:
        files: the run directory.
        learner: model, optimizer and averages.
        guard: checks the losses before anything is saved.
        world: the processes of the run.
        facts: further content of a checkpoint: the config and the summary of the data.
    """

    def __init__(
        self,
        files: RunDir,
        learner: Learner,
        guard: LossGuard,
        world: World,
        facts: dict[str, Any],
    ) -> None:
        self._files, self._learner, self._guard, self._world = files, learner, guard, world
        self._facts = facts

    def save(self, step: int, best: float | None) -> Report | None:
        """Write last.pt. All processes must call this, and wait for it.

        Args:
            step: number of finished steps.
            best: score of best.pt, or None.

        Returns:
            The report of the step, if it was not returned before.

        Raises:
            LossError: the step's loss is not finite. Nothing is written.
        """
        settled = self._guard.settle()
        states = self._world.gather(random_state())
        self._world.share(lambda: self._files.save_last(self.content(step, best, states)))
        return settled

    def save_best(self, step: int, best: float) -> None:
        """Write best.pt in the main process.

        Args:
            step: number of finished steps.
            best: score of the weights.
        """
        if self._world.is_main:
            self._files.save_best(self.content(step, best, [random_state()]))

    def failure(self, error: LossError) -> str:
        """Write the failed step to a file and return an error message. All processes must call this."""
        batches = self._world.gather(list(error.parts))
        parts = [part for process in batches for part in process]
        return self._world.share(lambda: self._describe(error, parts))

    def _describe(self, error: LossError, parts: Sequence[TrainBatch]) -> str:
        path = self._files.path / f"failed_step_{error.report.step:08d}.pt"
        saved = save_failed_step(path, self._learner, self._facts["config"], error.report, parts)
        return f"{describe(error.report, parts, self._learner.schedule.max_loss)}\n{saved}"

    def content(self, step: int, best: float | None, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        """The content of a checkpoint.

        Args:
            step: number of finished steps.
            best: score of best.pt, or None.
            random_states: `random_state` of every process, by rank.
        """
        return {
            **self._learner.state(),
            "step": step,
            "random_states": random_states,
            **self._facts,
            "best": best,
        }
