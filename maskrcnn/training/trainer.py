"""`maskrcnn.Trainer`: trains a model and writes checkpoints and metrics to a run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from maskrcnn.console import console
from maskrcnn.data.adapter import Samples, adapt
from maskrcnn.data.augmentations import Augmentation
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.loader import EvalLoader, TrainLoader
from maskrcnn.data.transforms import Transform
from maskrcnn.errors import UserError
from maskrcnn.evaluation.evaluator import Evaluator
from maskrcnn.evaluation.metrics import Metrics
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.prediction.predictor import PAPER
from maskrcnn.training.checks import check_learnable, check_together, num_classes
from maskrcnn.training.distributed import World, joined, open_device
from maskrcnn.training.guard import LossGuard
from maskrcnn.training.interruption import Interruption
from maskrcnn.training.learner import Learner
from maskrcnn.training.logging import RunLog, peak_memory_mib
from maskrcnn.training.recipe import CHANGEABLE, Recipe, check_resumable, data_summary, flat, plain, settings
from maskrcnn.training.run import Run
from maskrcnn.training.run_dir import RunDir
from maskrcnn.training.session import note_session, open_run_dir
from maskrcnn.training.settings import Checkpoints, Log, Schedule


class Trainer:
    """Trains and evaluates a model, and keeps all files in one run directory.

    To resume a run, run the same script again: training continues from the last checkpoint. It works in one process,
    in a notebook and under torchrun, where the processes share the images of a batch.

    Args:
        model: trained in place.
        train_set: a `Dataset`, or any map-style data set that returns torchvision's ``(image, target)``; see
            `maskrcnn.data.adapter.Samples`.
        val_set: images to evaluate on. None evaluates nothing and writes no best.pt.
        run_dir: folder of the run; None is runs/<date-time>.
        steps: number of optimizer steps; None is the schedule's.
        batch_size: images per step, over all processes; None is the schedule's.
        schedule: learning rate, optimizer and number of steps.
        checkpoints: when to save.
        evaluation: when and how to evaluate.
        log: what to report.
        train_transform: how training images are resized and augmented. None resizes as in testing and flips half of
            the images horizontally.
        augmentations: ``"light"``, ``"strong"`` or a list, see `Transform`. They replace those of ``train_transform``.
        test_transform: how images are resized in testing. None is the model's ``preprocessing``, or a shorter side of
            800 pixels and a longer side of at most 1333.
        train_loader: called with data set, transform and batch size; None is `TrainLoader`.
        test_loader: called with data set, transform and batch size; None is `EvalLoader`.
        num_workers: number of data-loading processes of the default loaders.
        metric: ``coco`` or ``voc``; None is the data set's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: precision of the arithmetic; weights stay float32 (float64 for ``fp64``).
        accumulate: compute the images of a process in this many parts, one after the other, to save memory.
        compile: compile the backbone, the pyramid and the heads.
        cuda_graphs: with ``compile`` on a GPU, also capture CUDA graphs.
        fast_convolutions: on a CPU without AVX-512, compute 3x3 convolutions by Winograd's method.
        seed: seed of the order of the images and of their augmentation.
        classes: names of the labels 1, 2, ... of a torchvision-style data set.
        recipe: the config that checkpoints store; None derives it from the arguments.

    Raises:
        UserError: settings contradict each other, or the model cannot be trained on the data.
    """

    def __init__(
        self,
        model: MaskRCNN,
        train_set: Dataset | Samples,
        val_set: Dataset | Samples | None = None,
        run_dir: str | Path | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        *,
        schedule: Schedule | None = None,
        checkpoints: Checkpoints | None = None,
        evaluation: Evaluation | None = None,
        log: Log | None = None,
        train_transform: Transform | None = None,
        augmentations: Sequence[Augmentation | str] | str | None = None,
        test_transform: Transform | None = None,
        train_loader: Callable[..., TrainLoader] | None = None,
        test_loader: Callable[..., EvalLoader] | None = None,
        num_workers: int = 0,
        metric: str | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        accumulate: int = 1,
        compile: bool = False,
        cuda_graphs: bool = False,
        fast_convolutions: bool = True,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        given: dict[str, Any] = {"steps": steps, "batch_size": batch_size}
        self.schedule = replace(schedule or Schedule(), **{k: v for k, v in given.items() if v is not None})
        self.checkpoints, self.log = checkpoints or Checkpoints(), log or Log()
        self.evaluation = evaluation or Evaluation()
        self.model, self.run_dir = model, run_dir
        self.train_set = adapt(train_set, num_classes(model), classes)
        self.val_set = None if val_set is None else adapt(val_set, num_classes(model), classes)
        own = PAPER if model.preprocessing is None else Transform.of(model.preprocessing)
        self.test_transform = test_transform or own
        self.train_transform = train_transform or replace(self.test_transform, horizontal_flip=0.5)
        if augmentations is not None:
            self.train_transform = replace(self.train_transform, augmentations=augmentations)
        divisor = 32 if model.preprocessing is None else model.preprocessing.size_divisor
        loading: dict[str, Any] = {"num_workers": num_workers, "size_divisor": divisor}
        self.train_loader = train_loader or partial(TrainLoader, **loading)
        self.test_loader = test_loader or partial(EvalLoader, **loading)
        self.metric, self.device, self.precision = metric, open_device(device), precision
        self.accumulate, self.compile, self.cuda_graphs, self.seed = accumulate, compile, cuda_graphs, seed
        self.fast_convolutions = fast_convolutions
        check_together(self.evaluation, self.device, compile, cuda_graphs, accumulate)
        check_learnable(model, self.train_set, self.val_set)
        self.recipe = recipe or self._recipe()

    def fit(self) -> Metrics:
        """Train to the last step, or resume and train to the last step.

        Returns:
            The metrics of the last evaluation.

        Raises:
            Interrupted: SIGTERM or Ctrl-C arrived; a checkpoint of the last step is written.
            UserError: the run directory is in use or belongs to another run, a loss is not finite, or the data are
                invalid.
        """
        interruption = Interruption("stopping after this step, with a checkpoint")
        with joined(self.device) as world, interruption.watched():
            files = RunDir(world.share(lambda: open_run_dir(self.run_dir)), self.checkpoints.keep)
            self.run_dir = files.path
            world.share(files.lock)
            try:
                run = self._run(files, world, interruption)
                if self.compile:
                    run.learner.compile(self.cuda_graphs)
                metrics = run.go()
            finally:
                files.unlock()
            console.print(f"done: {files.path}; peak memory {peak_memory_mib() / 1024:.2f} GiB")
            return metrics

    def evaluate(self) -> Metrics:
        """Evaluate the current model on ``val_set``. Writes metrics.json and predictions.json to the run directory.

        Raises:
            UserError: there is no ``val_set``.
        """
        with joined(self.device) as world:
            evaluator = self._evaluator(self._placed_model(), world)
            if evaluator is None:
                raise UserError("there is nothing to evaluate: the trainer was made without a val_set")
            folder = world.share(lambda: open_run_dir(self.run_dir))
            parts = world.gather(evaluator.detect())
            metrics = world.share(lambda: evaluator.score(parts, folder, "evaluation"))
            if world.is_main:
                evaluator.write_extras(folder, self.log.images)
            return metrics

    def _run(self, files: RunDir, world: World, interruption: Interruption) -> Run:
        """The run in this process: new, or with the state of its last checkpoint."""
        schedule, sets = self.schedule, {"train": self.train_set, "val": self.val_set}
        data = {split: data_summary(dataset) for split, dataset in sets.items() if dataset is not None}
        stored = world.share(files.newest)
        if stored is not None:
            check = (self.recipe.stored, data, schedule.steps, files.path)
            world.share(lambda: check_resumable(stored, *check))
        model = self._placed_model()
        world.share_weights(model)
        learner = Learner(model, schedule, self.device, self.precision, self.fast_convolutions)
        # All processes have the same weights, but stochastic depth must drop different rows in each.
        if world.rank:
            torch.manual_seed(self.seed + world.rank)
        step = 0 if stored is None else int(stored["step"])
        self._announce(files, world, step)
        run = Run(
            files=files,
            world=world,
            interruption=interruption,
            learner=learner,
            loader=self._train_loader(world),
            evaluator=self._evaluator(learner.evaluated_model, world),
            guard=LossGuard(self.device, schedule.max_loss),
            log=RunLog(files.path, step, schedule.steps, schedule.batch_size, self.log, active=world.is_main),
            checkpoints=self.checkpoints,
            facts={"config": self.recipe.stored, "data": data},
            accumulate=self.accumulate,
            step=step,
        )
        if stored is not None:
            run.restore(stored)
        return run

    def _placed_model(self) -> MaskRCNN:
        if self.precision == "fp64":
            self.model.double()
        return self.model.to(self.device).to(memory_format=torch.channels_last)

    def _train_loader(self, world: World) -> TrainLoader:
        loader = self.train_loader(
            self.train_set,
            self.train_transform,
            self.schedule.part_size(world.size, self.accumulate),
            seed=self.seed,
            rank=world.rank,
            world_size=world.size,
            accumulate=self.accumulate,
            pin_memory=self.device.type == "cuda",
        )
        if loader.repeats is not None and world.is_main:
            console.print(loader.repeats.line())
        return loader

    def _evaluator(self, model: MaskRCNN, world: World) -> Evaluator | None:
        if self.val_set is None:
            return None
        loader = self.test_loader(
            self.val_set,
            self.test_transform,
            self.evaluation.batch_size,
            rank=world.rank,
            world_size=world.size,
            num_images=self.evaluation.num_images,
            pin_memory=self.device.type == "cuda",
        )
        chosen = (self.device, self.evaluation, self.metric, self.precision, world.size)
        return Evaluator(model, self.val_set, loader, *chosen)

    def _announce(self, files: RunDir, world: World, step: int) -> None:
        """Write config.yaml, record the versions and the machine, and print the schedule."""
        schedule, size = self.schedule, world.size
        if world.is_main:
            text = yaml.safe_dump(self.recipe.resolved, sort_keys=False, allow_unicode=True)
            (files.path / "config.yaml").write_text(text)
            leaves = flat(self.recipe.resolved)
            note_session(files.path, step, {key: leaves.get(key) for key in CHANGEABLE})
        part = schedule.part_size(size, self.accumulate)
        split = f" ({size} processes x {self.accumulate} parts x {part} images)"
        console.print(
            f"{schedule.steps} steps of {schedule.batch_size} images{split if size * self.accumulate > 1 else ''}, "
            f"learning rate {schedule.lr:g} x {schedule.batch_size}/{schedule.lr_batch_size} = "
            f"{schedule.scaled_lr:g}, {self.precision} on {self.device}"
        )
        if self.val_set is None:
            console.print(
                "no validation set: nothing is validated, and last.pt holds the weights (there is no best.pt); "
                "data=folds validates on a part of the training images",
                style="yellow",
            )
        if schedule.doubt is not None:
            console.print(schedule.doubt, style="yellow")

    def _recipe(self) -> Recipe:
        """The arguments as plain values, in the form of a command's config."""
        loading = ("train_transform", "test_transform", "train_loader", "test_loader")
        values: dict[str, Any] = {
            "model": self.model.recipe,
            "num_classes": len(self.train_set.categories),
            "categories": plain(self.train_set.categories),
            **{key: getattr(self, key) for key in ("seed", "precision", "accumulate", "metric")},
            **{key: settings(getattr(self, key)) for key in ("schedule", "evaluation", "log")},
            "checkpoint": settings(self.checkpoints),
            "data": {key: plain(getattr(self, key)) for key in loading},
        }
        return Recipe(values, values)
