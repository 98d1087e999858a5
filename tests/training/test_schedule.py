"""The learning rate by hand, and which parameters decay."""

import math

import pytest
from torch import nn

from maskrcnn.config import compose as configs
from maskrcnn.errors import UserError
from maskrcnn.training.learner import build_optimizer
from maskrcnn.training.settings import Schedule


def test_the_rate_scales_with_the_batch() -> None:
    assert Schedule(lr=0.02, lr_batch_size=16, batch_size=4).scaled_lr == pytest.approx(0.005)


def test_multistep_with_warmup_by_hand() -> None:
    schedule = Schedule(
        steps=100, batch_size=16, lr=0.02, warmup_steps=10, warmup_factor=0.1, milestones=[0.5, 0.8]
    )
    expected = {0: 0.002, 5: 0.02 * 0.55, 10: 0.02, 49: 0.02, 50: 0.002, 79: 0.002, 80: 0.0002, 99: 0.0002}
    assert {step: schedule.lr_at(step) for step in expected} == pytest.approx(expected)


def test_cosine_by_hand() -> None:
    schedule = Schedule(steps=100, batch_size=16, lr=0.02, warmup_steps=0, decay="cosine")
    assert schedule.lr_at(0) == pytest.approx(0.02)
    assert schedule.lr_at(50) == pytest.approx(0.01)
    assert schedule.lr_at(75) == pytest.approx(0.01 * (1 - math.sqrt(0.5)))


@pytest.mark.parametrize(
    ("steps", "warmup", "doubtful"), [(300, 500, True), (300, 101, True), (300, 100, False)]
)
def test_a_warm_up_that_swallows_the_run_is_said(steps: int, warmup: int, doubtful: bool) -> None:
    words = Schedule(steps=steps, warmup_steps=warmup).doubt
    assert (words is not None) == doubtful
    if words is not None:
        assert f"the warm-up of {warmup} steps" in words
        assert "schedule.warmup_steps=30" in words


def test_fine_tuning_differs_from_the_1x_schedule_by_what_it_says() -> None:
    one, tuned = (
        Schedule(**configs.compose_config("train", [f"schedule={name}"]).schedule)
        for name in ("1x", "finetune")
    )
    changed = {"steps": 5000, "batch_size": 8, "warmup_steps": 500, "decay": "cosine", "clip_norm": 10.0}
    kept = vars(one).keys() - changed.keys() - {"milestones"}
    assert {name: getattr(tuned, name) for name in changed} == changed
    assert all(getattr(tuned, name) == getattr(one, name) for name in kept)


@pytest.mark.parametrize(
    ("name", "steps", "drops"),
    [
        ("1x", 90_000, (60_000, 80_000)),
        ("2x", 180_000, (120_000, 160_000)),
        ("3x", 270_000, (210_000, 250_000)),
        ("keypoints", 90_000, (60_000, 80_000)),
        ("paper", 160_000, (120_000,)),
    ],
)
def test_published_schedules_drop_at_the_steps_they_are_published_with(
    name: str, steps: int, drops: tuple[int, ...]
) -> None:
    schedule = Schedule(**configs.compose_config("train", [f"schedule={name}"]).schedule)
    assert (schedule.steps, schedule.scaled_lr) == (steps, 0.02)
    for number, step in enumerate(drops):
        assert schedule.lr_at(step - 1) == pytest.approx(0.02 * 0.1**number)
        assert schedule.lr_at(step) == pytest.approx(0.02 * 0.1 ** (number + 1))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_decay_only_if_asked(optimizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    schedule = Schedule(optimizer=optimizer, weight_decay=0.1, norm_weight_decay=False)  # type: ignore[arg-type]
    both = build_optimizer(model, schedule)
    found = {tuple(p.shape): group["weight_decay"] for group in both.param_groups for p in group["params"]}
    assert found == {(4, 3, 3, 3): 0.1, (4,): 0.0}
    schedule = Schedule(optimizer=optimizer, weight_decay=0.1)  # type: ignore[arg-type]
    assert {group["weight_decay"] for group in build_optimizer(model, schedule).param_groups} == {0.1}


def test_milestones_in_steps_are_refused_with_the_fractions_that_were_meant() -> None:
    with pytest.raises(UserError, match=r"\[60000, 80000\] are fractions .* give \[0\.6667, 0\.8889\]"):
        Schedule(steps=90000, milestones=[60000, 80000])
