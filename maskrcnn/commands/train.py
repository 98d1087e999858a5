"""tools/train.py: train, evaluate and leave everything in one run directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from maskrcnn import assembly
from maskrcnn import config as configs
from maskrcnn.commands.evaluation import Evaluator
from maskrcnn.data.dataset import Dataset, check_same_categories
from maskrcnn.data.loader import TrainBatch
from maskrcnn.engine import checkpoint
from maskrcnn.engine.logs import RunLog, console, peak_memory_mib
from maskrcnn.engine.schedule import Schedule, build_optimizer
from maskrcnn.engine.train import train
from maskrcnn.errors import UserError
from maskrcnn.models.mask_rcnn import MaskRCNN


def main(arguments: Sequence[str]) -> None:
    """Compose the config from ``key=value`` arguments, then train (or resume) and evaluate."""
    config = configs.compose_config("train", arguments)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(config.deterministic)
    device = assembly.open_device(config.device, config.threads)
    train_set, val_set = assembly.open_data(config, "train"), assembly.open_data(config, "val")
    check_same_categories(train_set, val_set)
    if config.model.mask_head is not None and not train_set.has_masks:
        raise UserError(
            "the training annotations have no masks (segmentation); set model.mask_head=null for boxes alone"
        )
    assembly.set_categories(config, train_set)
    run_dir = assembly.open_run_dir(config.run_dir)
    stored = _resumed(config, run_dir)
    if stored is not None:
        configs.drop_pretrained(config)
    model = assembly.build_model(config).to(device)
    Run(config, run_dir, model, device, train_set, val_set).go(stored)


def _resumed(config: DictConfig, run_dir: Path) -> dict[str, Any] | None:
    """The checkpoint to go on from, if the directory holds one of the same run."""
    last = run_dir / "last.pt"
    if not last.exists():
        return None
    stored = checkpoint.load_model(last)
    assembly.check_same_run(config, stored["config"], run_dir)
    console.print(f"resuming from step {stored['step']} of {config.schedule.steps}")
    return stored


class Run:
    """A training run: the parts, and what happens between the steps."""

    def __init__(
        self,
        config: DictConfig,
        run_dir: Path,
        model: MaskRCNN,
        device: torch.device,
        train_set: Dataset,
        val_set: Dataset,
    ) -> None:
        self.config, self.run_dir, self.model, self.device = config, run_dir, model, device
        self.train_set = train_set
        self.schedule = Schedule(**configs.build(config.schedule))
        self.optimizer = build_optimizer(model, self.schedule)
        self.evaluator = Evaluator(config, val_set, model, device)
        self.stored_config = assembly.plain(config)
        self.best: float | None = None  # AP of best.pt

    def go(self, stored: dict[str, Any] | None) -> None:
        """Train from where ``stored`` left off, then evaluate if that has not been done."""
        start = self._start(stored)
        OmegaConf.save(OmegaConf.create(self.stored_config), self.run_dir / "config.yaml", resolve=True)
        schedule = self.schedule
        console.print(
            f"{schedule.steps} steps of {schedule.batch_size} images, learning rate {schedule.lr:g} x "
            f"{schedule.batch_size}/{schedule.lr_batch_size} = {schedule.scaled_lr:g}, on {self.device}"
        )
        with RunLog(
            self.run_dir, start, schedule.steps, schedule.batch_size, self.config.log.every
        ) as self.log:
            if start < schedule.steps:
                batches = self._batches(start)
                train(
                    self.model,
                    self.optimizer,
                    schedule,
                    batches,
                    self.device,
                    self.log,
                    start,
                    self._after_step,
                )
            if start == schedule.steps and not self._evaluated():
                self._evaluate(start)
        console.print(f"done: {self.run_dir}; peak memory {peak_memory_mib() / 1024:.2f} GiB")

    def _start(self, stored: dict[str, Any] | None) -> int:
        """Weights, optimizer and step: from the run itself, from ``init``, or from scratch."""
        if stored is not None:
            self.model.load_state_dict(stored["model"])
            self.optimizer.load_state_dict(stored["optimizer"])
            if (self.run_dir / "best.pt").exists():
                self.best = checkpoint.load_model(self.run_dir / "best.pt")["best"]
            return int(stored["step"])
        source = self.config.init.weights
        if source is not None and source != "imagenet":
            skipped = checkpoint.initialise(self.model, source, self.config.init.reset_heads)
            console.print(f"started from {source}; {len(skipped)} entries not taken over")
            for name, reason in skipped:
                console.print(f"  {name}: {reason}")
        return 0

    def _batches(self, start: int) -> Iterator[TrainBatch]:
        data = self.config.data
        make_loader = configs.build(data.train_loader)
        transform = configs.build(data.train_transform)
        loader = make_loader(self.train_set, transform, self.schedule.batch_size, seed=self.config.seed)
        batches: Iterator[TrainBatch] = loader.batches(start)
        return batches

    def _after_step(self, step: int) -> None:
        """Checkpoint before evaluation, so that a run killed while evaluating loses nothing."""
        last, every = step == self.schedule.steps, self.config.evaluation.every
        if last or step % self.config.checkpoint.every == 0:
            self._save("last.pt", step)
        if last or (every and step % every == 0):
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        """Score the validation set; the best weights so far are kept aside."""
        metrics = self.evaluator.run(self.run_dir, title=f"step {step}", pictures=self.config.log.images)
        self.log.metrics(step, metrics)
        if (picture := self.evaluator.picture) is not None:
            self.log.picture(step, "ground truth | predictions", picture)
        score = next(iter([*metrics.values()][-1].values()))  # AP of the masks, or of what there is
        if self.best is None or (score is not None and score > self.best):
            self.best = -1.0 if score is None else score
            self._save("best.pt", step)

    def _evaluated(self) -> bool:
        """Whether the finished run was scored after its last checkpoint."""
        metrics, last = self.run_dir / "metrics.json", self.run_dir / "last.pt"
        return metrics.exists() and metrics.stat().st_mtime_ns >= last.stat().st_mtime_ns

    def _save(self, name: str, step: int) -> None:
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": step,
            "config": self.stored_config,
            "best": self.best,
        }
        try:
            checkpoint.save(self.run_dir / name, content)
        except OSError as error:
            raise UserError(f"the checkpoint cannot be written to {self.run_dir}: {error}") from error
