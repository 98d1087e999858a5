"""The training loop: what a step asks of the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.counting import Counted
from benchmarks.train import our_step
from maskrcnn import structures
from maskrcnn.data.loader import TrainBatch
from maskrcnn.engine.schedule import Schedule, build_optimizer
from tests.models.batches import random_images, random_targets
from tests.models.test_mask_rcnn import TINY, TINY_C4, build

CPU = torch.device("cpu")


@pytest.fixture
def batch() -> TrainBatch:
    return TrainBatch(random_images(8, 128), random_targets(8, 128), list(range(8)))


def test_the_counter_sees_what_waits() -> None:
    x, mask = torch.arange(6.0), torch.arange(6) % 2 == 0
    with Counted() as counted:
        x.sum().item()
        x[mask]
        x.nonzero()
        x.unique()
        x.masked_select(mask)
        torch.tensor([1.0, 2.0])
    assert counted.syncs == {
        "item": 1,
        "masked index": 1,
        "nonzero": 1,
        "unique": 1,
        "masked_select": 1,
        "literal": 1,
    }
    with Counted() as counted:
        x.tolist()
        x.numpy()
        x.to("cpu").cpu()
        x.to("cpu", non_blocking=True).tolist()
    assert counted.syncs == {"device to host": 4}
    with Counted() as counted:
        x[mask.nonzero()[:, 0]]
        x.gather(0, torch.zeros(1, dtype=torch.int64))
    assert counted.syncs == {"nonzero": 1}


@pytest.mark.parametrize("model", ["r50_fpn", "r18_c4"])
def test_a_training_step_waits_for_nothing(
    batch: TrainBatch, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN guard and all, between two lines of the log. Slots stay padded, as they do on a GPU."""
    monkeypatch.setattr(structures, "_used", lambda taken: taken.shape[1])
    small = TINY if model.endswith("fpn") else ["model.sampler.num_samples=16"]
    step = our_step(build(f"model={model}", *small, "model.backbone.norm=frozen_bn"), batch, CPU, "fp32")
    with Counted() as counted:
        step()
        before = counted.syncs.copy()
        step()
    assert counted.syncs - before == {}
    assert len(step()) == 5  # the guard did read the losses of the step before


def test_slots_that_stay_padded_do_not_change_a_c4_models_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU res5 computes all slots, on a CPU those in use; batch norm that learns must not tell the difference."""
    images, targets, trained = random_images(2, 64), random_targets(2, 64), []
    images = replace(images, pixels=images.pixels.double())
    few = ["model.sampler.num_samples=48", "model.rpn.post_nms_train=16"]
    for used in (structures._used, lambda taken: taken.shape[1]):
        monkeypatch.setattr(structures, "_used", used)
        model = build("model=r18_c4", *TINY_C4, *few).double()
        losses = model.losses(images, targets)
        torch.stack([loss.total / loss.count for loss in losses.values()]).sum().backward()
        trained.append((losses, model))
    (one_losses, one), (other_losses, other) = trained
    for name, loss in one_losses.items():
        torch.testing.assert_close(loss.total, other_losses[name].total, rtol=1e-10, atol=0)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-10, atol=1e-12)
    for parameter, same in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, same.grad, rtol=1e-6, atol=1e-9)


def test_a_step_of_eight_images_takes_a_third_of_torchvisions_dispatches(batch: TrainBatch) -> None:
    """torchvision 0.29's takes 4,421, counted in the same way (benchmarks/train.md)."""
    step = our_step(build("model=r50_fpn", *TINY, "model.backbone.norm=frozen_bn"), batch, CPU, "fp32")
    step()
    with Counted() as counted:
        step()
    assert 500 < counted.dispatches <= 4421 / 3


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizers_are_one_operator_a_group(name: str) -> None:
    model = build(*TINY)
    optimizer = build_optimizer(model, Schedule(optimizer=name, norm_weight_decay=False))  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with Counted() as counted:
        optimizer.step()
    fused = sum(n for operator, n in counted.names.items() if "_fused_" in operator)
    assert fused == len(optimizer.param_groups) == 2
    assert counted.dispatches < 20


@pytest.mark.long
def test_memory_is_flat_over_2000_steps() -> None:
    """Resident memory after 200 steps and after 2,000."""
    batches = [
        TrainBatch(random_images(2, 64, seed), random_targets(2, 64, seed), [0, 1]) for seed in range(8)
    ]
    torch.set_num_threads(1)
    model = build(*TINY, "model.rpn.post_nms_train=50", "model.rpn.pre_nms_train=50")
    held = []
    steps = [our_step(model, one, CPU, "fp32") for one in batches]
    for index in range(2000):
        steps[index % 8]()
        if index in (199, 1999):
            held.append(resident_mib())
    print(f"resident memory after 200 and 2,000 steps: {held[0]:.0f} and {held[1]:.0f} MiB")
    assert held[1] - held[0] < 20


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
