"""One run of the trainer in this process: checkpoints and evaluations between the steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from maskrcnn.console import console
from maskrcnn.data.loader import TrainLoader
from maskrcnn.data.workers import BatchError
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.evaluation.evaluator import PICTURE_TAG, Evaluator, Found, attempt
from maskrcnn.evaluation.metrics import Metrics
from maskrcnn.training.distributed import World
from maskrcnn.training.failure import describe, save_failed_step
from maskrcnn.training.guard import LossError, LossGuard, Report
from maskrcnn.training.interruption import Interruption
from maskrcnn.training.learner import Learner, random_state, set_random_state
from maskrcnn.training.logging import RunLog
from maskrcnn.training.loop import train
from maskrcnn.training.run_dir import RunDir
from maskrcnn.training.settings import Checkpoints


@dataclass
class Run:
    """The parts of a run, and its progress.

    Args:
        files: the run directory, locked.
        world: the processes of the run.
        interruption: whether the run was asked to stop.
        learner: model, optimizer and averages.
        loader: training batches.
        evaluator: scores ``learner.evaluated_model``; None without a validation set.
        guard: stops the run at a loss that is not finite.
        log: terminal and TensorBoard.
        checkpoints: when to save.
        facts: further content of a checkpoint: the config and the summary of the data.
        accumulate: parts of a step in each process.
        step: number of finished steps.
        best: score of best.pt, or None.
        best_step: step of best.pt.
    """

    files: RunDir
    world: World
    interruption: Interruption
    learner: Learner
    loader: TrainLoader
    evaluator: Evaluator | None
    guard: LossGuard
    log: RunLog
    checkpoints: Checkpoints
    facts: dict[str, Any]
    accumulate: int = 1
    step: int = 0
    best: float | None = None
    best_step: int = 0

    def restore(self, stored: dict[str, Any]) -> None:
        """Load the checkpoint of ``step``."""
        self.learner.restore(stored)
        if self.world.rank < len(stored["random_states"]):
            set_random_state(stored["random_states"][self.world.rank])
        self.best, self.best_step = self.world.share(self.files.best)

    def go(self) -> Metrics:
        """Train from ``step`` on and evaluate. Returns the metrics of the last evaluation."""
        with self.log, self._failures_reported():
            done = self.world.share(lambda: self.files.evaluated() == self.step)
            finished = self._due() and not done and self._evaluate()
            if not finished and self.step < self.learner.schedule.steps and not self._out_of_patience():
                self._train()
        if self.evaluator is None:
            return {}
        path = self.files.path / "metrics.json"
        metrics: Metrics = self.world.share(lambda: json.loads(path.read_text()))
        return metrics

    def _train(self) -> None:
        with closing(self.loader.batches(self.step)) as batches:
            parts = (self.learner, batches, self.world, self.guard, self.log)
            train(*parts, lambda: self.interruption.requested, self._after_step, self.step, self.accumulate)

    @contextmanager
    def _failures_reported(self) -> Iterator[None]:
        """Turn a bad loss, or a batch that cannot be loaded, into an error that states the remedy."""
        try:
            try:
                yield
            except BatchError as error:
                # Between two steps the state is consistent, so a single process can save it. Several processes cannot,
                # because the failed one takes no part in collectives.
                stored = self.files.stored()
                if self.world.size == 1 and self.step and (stored is None or stored[1]["step"] < self.step):
                    self.save()
                message = f"{error}; {self.files.kept()}"
                # The signal that asked the run to stop may also have ended the worker.
                raise (Interrupted if self.interruption.requested else UserError)(message) from error
        except LossError as error:
            raise UserError(self._failure(error)) from error

    def _failure(self, error: LossError) -> str:
        """Write the failed step to a file and return an error message. All processes must call this."""
        parts = [part for process in self.world.gather(list(error.parts)) for part in process]
        path = self.files.path / f"failed_step_{error.report.step:08d}.pt"

        def write() -> str:
            saved = save_failed_step(path, self.learner.model, self.facts["config"], error.report, parts)
            return f"{describe(error.report, parts, self.guard.limit)}\n{saved}"

        return self.world.share(write)

    def _after_step(self, step: int, report: Report | None) -> bool:
        """Save and evaluate if due. Returns whether training ends.

        The checkpoint is written first, so that nothing is lost if the run is stopped during evaluation.
        """
        self.step = step
        alone = self.world.size == 1 and self.interruption.requested
        stop = alone or (report is not None and report.stop)  # several processes all know one step later
        if stop or self._due() or step % self.checkpoints.every == 0:
            settled = self.save()  # of this very step
            stop = stop or (settled is not None and settled.stop)
        if stop:
            steps = self.learner.schedule.steps
            raise Interrupted(f"saved at step {step} of {steps} in {self.files.path}")
        return self._due() and self._evaluate()

    def save(self) -> Report | None:
        """Write last.pt. All processes must call this, and wait for it.

        Returns:
            The report of the step, if it was not returned before.

        Raises:
            LossError: the step's loss is not finite. Nothing is written.
        """
        settled = self.guard.settle()
        states = self.world.gather(random_state())
        self.world.share(lambda: self.files.save_last(self._content(states)))
        return settled

    def _content(self, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        """The content of a checkpoint, with the `random_state` of every process by rank."""
        progress = {"step": self.step, "random_states": random_states, "best": self.best}
        return {**self.learner.state(), **self.facts, **progress}

    def _due(self) -> bool:
        """Whether the model is saved and, with a validation set, evaluated after this step."""
        every = 0 if self.evaluator is None else self.evaluator.settings.every
        return self.step == self.learner.schedule.steps or bool(
            every and self.step and self.step % every == 0
        )

    def _evaluate(self) -> bool:
        """Evaluate on the validation set and keep the best weights. Returns whether training ends.

        metrics.json and best.pt are written first. If tables or pictures fail after that, a warning is printed.
        """
        evaluator, step = self.evaluator, self.step
        if evaluator is None:
            return False
        self.world.share_buffers(evaluator.model)
        with self.learner.evaluating():
            parts = self.world.gather(self._detect(evaluator))
        if self.world.share(lambda: None in parts):
            raise Interrupted("while evaluating; the checkpoint is that of the last step")
        whole = [part for part in parts if part is not None]
        metrics = self.world.share(lambda: evaluator.score(whole, self.files.path, f"step {step}"))
        self.log.metrics(step, metrics)
        score = _score(metrics, evaluator.settings.best_by)
        if self.best is None or (score is not None and score > self.best):
            self.best, self.best_step = -1.0 if score is None else score, step
            if self.world.is_main:
                self.files.save_best(self._content([random_state()]))
        if self.world.is_main:
            evaluator.write_extras(self.files.path, self.log.settings.images)
            if (picture := evaluator.picture) is not None:
                attempt("TensorBoard's picture", lambda: self.log.picture(step, PICTURE_TAG, picture))
            self.files.note_evaluated(step)
        return self._out_of_patience()

    def _detect(self, evaluator: Evaluator) -> Found | None:
        """The results of this process; None if it was asked to stop, so that all processes can stop together."""
        try:
            return evaluator.detect(lambda: self.interruption.requested)
        except Interrupted:
            return None

    def _out_of_patience(self) -> bool:
        """Whether the last ``patience`` evaluations did not improve on the best one."""
        if self.evaluator is None:
            return False
        patience, every = self.evaluator.settings.patience, self.evaluator.settings.every
        if not patience or self.best is None or self.step - self.best_step < patience * every:
            return False
        console.print(f"no improvement since step {self.best_step}: training ends at step {self.step}")
        return True


def _score(metrics: Metrics, best_by: str | None) -> float | None:
    """The score that decides best.pt: ``best_by``, else mask AP, else the AP that exists."""
    if best_by is None:
        return next(iter([*metrics.values()][-1].values()))
    kind, _, name = best_by.partition("/")
    return metrics[kind][name]
