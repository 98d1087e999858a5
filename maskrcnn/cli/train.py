"""Train a Mask R-CNN.

Usage: maskrcnn train [key=value ...]

Examples:
  maskrcnn train                                              generated shapes, a small FPN model
  maskrcnn train roi_op=pool model=r18_c5 run_dir=runs/pool   another operator, another stride
  maskrcnn train data=custom data.train_annotations=A.json data.train_images=DIR \\
                 data.val_annotations=B.json data.val_images=DIR init=imagenet model=r50_fpn
  maskrcnn train experiment=nuclei data.root=DIR              a whole recipe

The keys are those of configs/train.yaml and of its groups model, roi_op, data, schedule and experiment. Training
resumes when the command is started again with the same run_dir. The run directory receives config.yaml, last.pt,
best.pt, metrics.json, predictions.json, predictions.png and TensorBoard events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config.pretrained import drop_pretrained, pin_norms
from maskrcnn.config.renamed import with_present_names
from maskrcnn.console import console
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.loader import TrainLoader
from maskrcnn.data.workers import BatchError
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.evaluation.evaluator import Evaluator
from maskrcnn.training.distributed import World, joined, lost_peer
from maskrcnn.training.guard import LossError, LossGuard, Report
from maskrcnn.training.initialise import initialise
from maskrcnn.training.interruption import Interruption
from maskrcnn.training.keeper import Keeper
from maskrcnn.training.learner import Learner, be_deterministic, random_state, set_random_state
from maskrcnn.training.logging import RunLog, peak_memory_mib
from maskrcnn.training.loop import train
from maskrcnn.training.provenance import note_session
from maskrcnn.training.run_dir import RunDir
from maskrcnn.training.schedule import Schedule
from maskrcnn.training.statistics import has_running_statistics


def main(arguments: Sequence[str]) -> None:
    """Compose the config from ``key=value`` arguments, then train (or resume) and evaluate."""
    config = configs.compose_config("train", arguments)
    torch.manual_seed(config.seed)
    be_deterministic(config.deterministic)
    device = assembly.open_device(config.device, config.threads)
    interruption = Interruption("stopping after this step, with a checkpoint")
    with interruption.watched(), joined(device) as world:
        before, console.quiet = console.quiet, not world.is_main
        try:
            _run(config, device, world, interruption)
        finally:
            console.quiet = before


def _run(config: DictConfig, device: torch.device, world: World, interruption: Interruption) -> None:
    check_together(config, device)
    train_set, val_set = world.main_first(
        lambda: (assembly.open_data(config, "train"), assembly.open_data(config, "val"))
    )
    assembly.check_learnable(config, train_set, val_set)
    assembly.set_categories(config, train_set)
    data = assembly.data_summary(train_set, val_set)
    files = RunDir(world.share(lambda: assembly.open_run_dir(config.run_dir)), config.checkpoint.keep)
    if world.is_main:
        files.lock(lambda: interruption.requested)
    try:
        # No name holds the stored tensors, so that they go once the run has taken them up.
        Run(
            config,
            files,
            device,
            world,
            interruption,
            train_set,
            val_set,
            _newest(config, files, world, data),
        ).go()
    finally:
        files.unlock()


def check_together(config: DictConfig, device: torch.device) -> None:
    """Raise UserError for settings that are right by themselves, but not with each other."""
    if config.evaluation.patience and not config.evaluation.every:
        raise UserError(
            f"evaluation.patience={config.evaluation.patience} counts evaluations, but with evaluation.every=0 there "
            "is one, at the end: set evaluation.every to the steps between two"
        )
    if not config.cuda_graphs:
        return
    if device.type != "cuda":
        raise UserError(f"cuda_graphs=true needs a GPU, but the run is on {device}: leave it out")
    if not config.compile:
        raise UserError("cuda_graphs=true captures what compile=true compiles: set that too")
    if config.accumulate > 1:
        raise UserError(
            f"cuda_graphs=true with accumulate={config.accumulate}: torch's graphs write over gradients that are still "
            "to be added to (pytorch issue 169545); set accumulate=1"
        )


def _newest(
    config: DictConfig, files: RunDir, world: World, data: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """The checkpoint that the run goes on from, checked against ``config`` and ``data``; None for a new run."""
    stored = world.share(files.newest)
    if stored is not None:
        stored["config"] = with_present_names(stored["config"])
    pin_norms(config, None if stored is None else stored["config"])
    if stored is None:
        return None
    if config.schedule.steps < stored["step"]:
        raise UserError(
            f"run_dir={files.path} holds step {stored['step']}, beyond schedule.steps={config.schedule.steps}: give "
            f"schedule.steps={stored['step']} to evaluate it as it is, more to train on, or another run_dir"
        )
    changes = world.share(lambda: assembly.check_same_run(config, stored["config"], files.path))
    if "data" in stored:  # older checkpoints do not say
        world.share(lambda: assembly.check_same_data(data, stored["data"], files.path))
    console.print(f"resuming from step {stored['step']} of {config.schedule.steps}")
    for line in changes:
        console.print(f"  {line}", style="yellow")
    return stored


class Run:
    """A training run: the parts, and what happens between the steps."""

    def __init__(
        self,
        config: DictConfig,
        files: RunDir,
        device: torch.device,
        world: World,
        interruption: Interruption,
        train_set: Dataset,
        val_set: Dataset,
        stored: dict[str, Any] | None,
    ) -> None:
        self.stored_config = assembly.plain(config)
        if stored is not None:
            drop_pretrained(config)
        self.config, self.files, self.device, self.world = config, files, device, world
        self.interruption, self.train_set, self.stored = interruption, train_set, stored
        self.schedule = Schedule(**configs.build(config.schedule))
        self.part_size = self.schedule.part_size(world.size, config.accumulate)
        model = assembly.build_model(config).to(device)
        self.learner = Learner(model, self.schedule, device, config.precision)
        # Weights are the same everywhere, but stochastic depth drops other rows in every process.
        if world.rank:
            torch.manual_seed(config.seed + world.rank)
        self.guard = LossGuard(device, self.schedule.max_loss)
        facts = {"config": self.stored_config, "data": assembly.data_summary(train_set, val_set)}
        self.keeper = Keeper(files, self.learner, self.guard, world, facts)
        self.loader = self._train_loader()
        self.evaluator = Evaluator(config, val_set, self.learner.evaluated_model, device, world)
        self.best: float | None = None  # AP of best.pt
        self.best_step = 0
        self.step = 0  # steps done

    def go(self) -> None:
        """Train from where the stored run left off, then evaluate if that has not been done."""
        self._start()
        if self.config.compile:
            self.learner.compile(self.config.cuda_graphs)
        if self.world.is_main:
            config = OmegaConf.create(self.stored_config)
            OmegaConf.save(config, self.files.path / "config.yaml", resolve=True)
            changeable = {key: OmegaConf.select(config, key) for key in assembly.CHANGEABLE}
            note_session(self.files.path, self.step, changeable)
        console.print(self._headline())
        if self.config.cuda_graphs and self.config.data.train_loader.buckets is None:
            sizes = "cuda_graphs=true captures every size of canvas, and data.train_loader.buckets=128 keeps them few"
            console.print(sizes, style="yellow")
        if (doubt := self.schedule.doubt) is not None:
            console.print(doubt, style="yellow")
        settings = configs.plain_dict(self.config.log)
        settings.pop("images")
        self.log = RunLog(
            self.files.path,
            self.step,
            self.schedule.steps,
            self.schedule.batch_size,
            **settings,
            active=self.world.is_main,
        )
        with self.log, self._in_words():
            done = self.world.share(lambda: self.files.evaluated() == self.step)
            finished = self._due(self.step) and not done and self._evaluate(self.step)
            if not finished and self.step < self.schedule.steps and not self._out_of_patience(self.step):
                self._train()
        console.print(f"done: {self.files.path}; peak memory {peak_memory_mib() / 1024:.2f} GiB")

    def _headline(self) -> str:
        schedule, size = self.schedule, self.world.size
        split = f" ({size} processes x {self.config.accumulate} parts x {self.part_size} images)"
        return (
            f"{schedule.steps} steps of {schedule.batch_size} images"
            f"{split if size * self.config.accumulate > 1 else ''}, learning rate {schedule.lr:g} x "
            f"{schedule.batch_size}/{schedule.lr_batch_size} = {schedule.scaled_lr:g}, {self.config.precision} "
            f"on {self.device}"
        )

    def _start(self) -> None:
        """Weights, optimizer, random state and step: from the run itself, from ``init``, or from scratch."""
        stored, self.stored = self.stored, None
        if stored is not None:
            self.learner.restore(stored)
            if self.world.rank < len(stored["random_states"]):
                set_random_state(stored["random_states"][self.world.rank])
            self.step = int(stored["step"])
            self.best, self.best_step = self.world.share(self.files.best)
            return
        source = self.config.init.weights
        if source is not None and source != "imagenet":
            start = initialise(self.learner.model, source, self.config.init.reset_heads)
            if self.learner.ema is not None:
                self.learner.ema.model.load_state_dict(self.learner.model.state_dict())
            console.print(f"started from {source}; {len(start.skipped)} entries not taken over")
            for line in start.words:
                console.print(line)
            for name, reason in start.skipped:
                console.print(f"  {name}: {reason}")

    def _train(self) -> None:
        with closing(self.loader.batches(self.step)) as batches:
            train(
                self.learner,
                batches,
                self.world,
                self.guard,
                self.log,
                lambda: self.interruption.requested,
                self._after_step,
                self.step,
                self.config.accumulate,
            )

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """What ends the run early is said in words, with what is kept of it."""
        try:
            yield
        except LossError as error:
            raise UserError(self.keeper.failure(error)) from error
        except BatchError as error:  # between two steps, or within an evaluation
            states = [random_state()] if self.world.is_main else []
            kept = self.keeper.save_alone(self.step, self.best, states)
            raise self._end(f"{error}; {kept}") from error
        except RuntimeError as error:
            if self.world.size == 1 or not lost_peer(error):
                raise
            # Within a step processes meet before its update alone, and `_after_step` counts the step before it meets
            # them again, so the weights are those of a whole step. Running statistics may already be half a step on,
            # and on a GPU an update by half-reduced gradients may be queued before the host learns of the loss: such a
            # run goes on from its last checkpoint. Random states are those of a step that will be done again.
            whole = self.device.type == "cpu" and not has_running_statistics(self.learner.model)
            kept = self.keeper.save_alone(self.step, self.best, []) if whole else self.files.kept()
            raise self._end(f"{self.world.lost(error)}\n{kept}") from error

    def _end(self, words: str) -> Exception:
        """The signal that asked the run to stop may itself be why a process ended."""
        return Interrupted(words) if self.interruption.requested else UserError(words)

    def _train_loader(self) -> TrainLoader:
        data = self.config.data
        loader: TrainLoader = configs.build(data.train_loader)(
            self.train_set,
            configs.build(data.train_transform),
            self.part_size,
            seed=self.config.seed,
            rank=self.world.rank,
            world_size=self.world.size,
            accumulate=self.config.accumulate,
            pin_memory=self.device.type == "cuda",
        )
        return loader

    def _after_step(self, step: int, report: Report | None) -> bool:
        """Checkpoint before evaluation, so that a run stopped while evaluating loses nothing; whether to end."""
        self.step = step
        alone = self.world.size == 1 and self.interruption.requested
        stop = alone or (report is not None and report.stop)  # of several processes, all know one step later
        if stop or self._due(step) or step % self.config.checkpoint.every == 0:
            settled = self.keeper.save(step, self.best)  # of this very step
            stop = stop or (settled is not None and settled.stop)
        if stop:
            raise Interrupted(f"saved at step {step} of {self.schedule.steps} in {self.files.path}")
        return self._due(step) and self._evaluate(step)

    def _due(self, step: int) -> bool:
        """Whether the model is evaluated after ``step``."""
        every = self.config.evaluation.every
        return step == self.schedule.steps or bool(every and step and step % every == 0)

    def _evaluate(self, step: int) -> bool:
        """Score the validation set; the best weights so far are kept aside. Whether to end training here."""
        with self.learner.evaluating():
            metrics = self.evaluator.run(
                self.files.path, f"step {step}", self.config.log.images, lambda: self.interruption.requested
            )
        self.log.metrics(step, metrics)
        if (picture := self.evaluator.picture) is not None:
            self.log.picture(step, "ground truth | predictions", picture)
        score = next(iter([*metrics.values()][-1].values()))  # AP of the masks, or of what there is
        if self.best is None or (score is not None and score > self.best):
            self.best, self.best_step = -1.0 if score is None else score, step
            self.keeper.save_best(step, self.best)
        if self.world.is_main:
            self.files.note_evaluated(step)
        return self._out_of_patience(step)

    def _out_of_patience(self, step: int) -> bool:
        """Whether too many evaluations were no better than the best one."""
        patience, every = self.config.evaluation.patience, self.config.evaluation.every
        if not patience or self.best is None or step - self.best_step < patience * every:
            return False
        console.print(f"no better evaluation since step {self.best_step}: training ends at step {step}")
        return True
