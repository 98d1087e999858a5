"""What goes wrong within a step: a lost process, a loss that runs away under loss scaling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from maskrcnn.data.loader import TrainBatch
from maskrcnn.structures import Loss
from maskrcnn.training import learner as learners
from maskrcnn.training.distributed import World
from maskrcnn.training.failure import replay
from maskrcnn.training.guard import OVERFLOWS, LossError, LossGuard, Report
from maskrcnn.training.learner import Learner
from maskrcnn.training.logging import RunLog
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Schedule
from tests.models.batches import random_images, random_targets
from tests.models.test_detector import TINY, build

CPU = torch.device("cpu")


class Lost(RuntimeError):
    """What Gloo raises when another process is gone."""


@dataclass(frozen=True)
class Breaking(World):
    """A world whose meeting number ``at`` fails, as when another process is gone."""

    at: int = -1
    meetings: list[int] = field(default_factory=list)

    def sum(self, tensor: Tensor) -> Tensor:
        self.meetings.append(len(self.meetings))
        if self.meetings[-1] == self.at:
            raise Lost
        return tensor


def batches() -> Iterator[TrainBatch]:
    for seed in range(100):
        yield TrainBatch(random_images(2, 64, seed), random_targets(2, 64, seed), [0, 1])


def train_to(steps: int, world: World, accumulate: int = 1) -> tuple[Learner, list[dict[str, Tensor]]]:
    """A learner, and its weights and momenta after each step that was made; a lost peer ends it."""
    torch.manual_seed(0)
    schedule = Schedule(steps=steps, batch_size=2, lr=0.01, lr_batch_size=2, warmup_steps=0)
    learner = Learner(build(*TINY, "model.backbone.norm=gn"), schedule, CPU, "fp32")
    seen = [state_of(learner)]

    def after(step: int, report: Report | None) -> bool:
        seen.append(state_of(learner))
        return False

    log = RunLog(Path(), 0, steps, 2, active=False)
    guard = LossGuard(CPU, 1e9)
    with suppress(Lost):
        train(learner, batches(), world, guard, log, lambda: False, after, accumulate=accumulate)
    return learner, seen


def state_of(learner: Learner) -> dict[str, Tensor]:
    momenta = {
        f"momentum {i}": buffers["momentum_buffer"]
        for i, buffers in enumerate(learner.optimizer.state.values())
    }
    return {name: value.detach().clone() for name, value in {**learner.model.state_dict(), **momenta}.items()}


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_process_that_is_lost_at_any_meeting_leaves_the_weights_of_a_whole_step(accumulate: int) -> None:
    """What is written then is labelled with the steps that were finished, so it must be their weights."""
    world = Breaking()
    train_to(3, world, accumulate)
    a_step = len(world.meetings) // 3
    assert a_step >= 2
    for at in range(2 * a_step, 3 * a_step):  # in the third step
        learner, seen = train_to(3, Breaking(at=at), accumulate)
        assert len(seen) == 3  # before the first step, after it, after the second
        left = state_of(learner)
        assert left.keys() == seen[-1].keys()
        assert [name for name in left if not torch.equal(left[name], seen[-1][name])] == []
        assert any(not torch.equal(left[name], seen[1][name]) for name in seen[1])


def scaled(monkeypatch: pytest.MonkeyPatch, limit: float) -> tuple[Learner, LossGuard]:
    """fp16, its loss scaled by 1, so that nothing overflows."""
    monkeypatch.setattr(learners, "GradScaler", partial(GradScaler, init_scale=1.0))
    schedule = Schedule(steps=3, batch_size=2, lr=0.01, lr_batch_size=2, warmup_steps=0)
    learner = Learner(build(*TINY, "model.backbone.norm=gn"), schedule, CPU, "fp16")
    return learner, LossGuard(CPU, limit)


@pytest.mark.parametrize(("limit", "changes"), [(0.01, False), (1e9, True)])
def test_under_loss_scaling_the_step_of_a_run_away_loss_makes_no_update(
    monkeypatch: pytest.MonkeyPatch, limit: float, changes: bool
) -> None:
    learner, guard = scaled(monkeypatch, limit)
    before = state_of(learner)
    log = RunLog(Path(), 0, 3, 2, active=False)
    arguments: Any = (learner, batches(), World(), guard, log, lambda: False, lambda step, report: False)
    if changes:
        train(*arguments)
    else:
        with pytest.raises(LossError):
            train(*arguments)
    after = learner.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after) == changes


def test_overflows_without_end_are_a_failure_and_a_few_are_not() -> None:
    guard = LossGuard(CPU, 1e9)
    infinite, finite = torch.tensor(torch.inf), torch.tensor(1.0)
    for _ in range(3):
        for _ in range(OVERFLOWS - 1):
            guard.note_overflow(infinite)
        guard.note_overflow(finite)
    assert guard.broken == 0
    for _ in range(OVERFLOWS):
        guard.note_overflow(infinite)
    assert guard.broken == 1


def test_what_is_known_of_the_last_step_is_returned_once() -> None:
    """A checkpoint after every step must not swallow another process's wish to stop."""
    guard, none = LossGuard(CPU, 1e9), torch.zeros(())
    losses = torch.ones(2)
    assert guard.watch(1, ["a", "b"], losses, none, torch.tensor(1.0), []) is None
    settled = guard.settle()
    assert settled is not None
    assert (settled.step, settled.stop) == (1, True)
    assert guard.settle() is None


class Rooted(nn.Module):
    """Losses that are finite while the gradient of ``middle`` is not: the root's slope at 0."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Parameter(torch.tensor(v)) for v in (1.0, at, 1.0))

    def forward(self, images: Any, targets: Any, proposals: Any) -> dict[str, Loss]:
        root = (self.middle * self.first).sqrt()
        return {"root": Loss(root * self.last, torch.tensor(1))}


@pytest.mark.parametrize(("at", "bad"), [(0.0, {"first", "middle"}), (4.0, set())])
def test_a_gradient_that_is_not_finite_is_found_again(at: float, bad: set[str]) -> None:
    part = next(batches())
    found = replay(Rooted(at), [part, part], CPU, "fp32")  # type: ignore[arg-type]
    assert found.losses == {"root": at**0.5}
    assert found.module is None
    assert set(found.gradients) == bad


def test_gradients_are_named_from_the_losses_backwards() -> None:
    layers = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    layers[1].weight.register_hook(lambda gradient: gradient * torch.nan)
    layers[1].register_full_backward_hook(lambda module, given, out: (given[0] * torch.nan,))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, *given: Any) -> dict[str, Loss]:
            return {"sum": Loss(self.layers(torch.ones(1, 2)).sum(), torch.tensor(1))}

    found = replay(Model(), [next(batches())], CPU, "fp32")  # type: ignore[arg-type]
    assert found.gradients == ["layers.1.weight", "layers.0.weight"]
