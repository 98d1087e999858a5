"""The training loop: what a step asks of the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, repeat
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torchvision.ops import stochastic_depth

from benchmarks.counting import Counted
from benchmarks.train import our_step
from maskrcnn import structures
from maskrcnn.data.formats.shapes import Shapes
from maskrcnn.data.loader import TrainBatch, TrainLoader
from maskrcnn.data.transforms import Transform
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision
from maskrcnn.structures import Loss
from maskrcnn.training.distributed import World
from maskrcnn.training.guard import LossError, LossGuard, Report
from maskrcnn.training.learner import Learner, build_optimizer
from maskrcnn.training.logging import RunLog
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Log, Schedule
from tests.models.batches import NUM_CLASSES, random_images, random_targets
from tests.models.test_detector import TINY, TINY_C4, build

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


@pytest.mark.slow
@pytest.mark.parametrize("model", ["r50_fpn", "r18_c4"])
def test_a_training_step_waits_for_nothing(
    batch: TrainBatch, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN guard and all, between two lines of the log. Slots stay padded, as they do on a GPU."""
    monkeypatch.setattr(structures, "_stays_padded", lambda slots: True)
    small = TINY if model.endswith("fpn") else ["model.sampler.num_samples=16"]
    step = our_step(build(f"model={model}", *small, "model.backbone.norm=frozen_bn"), batch, CPU, "fp32")
    with Counted() as counted:
        step()
        before = counted.syncs.copy()
        step()
    assert counted.syncs - before == {}
    assert len(step()) == 5  # the guard did read the losses of the step before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "accumulate"),
    [("fp32", 2), ("fp16", 1), ("bf16", 2)],
)
def test_scaling_clipping_averaging_and_parts_wait_for_nothing(
    batch: TrainBatch, precision: Precision, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structures, "_stays_padded", lambda slots: True)
    schedule = Schedule(steps=3, optimizer="adamw", lr=1e-5, clip_norm=1.0, ema=0.99, warmup_steps=0)
    learner = Learner(build(*TINY, "model.backbone.norm=frozen_bn"), schedule, CPU, precision)
    syncs = []
    with Counted() as counted:
        run_train(
            learner,
            repeat(batch),
            after=lambda step, report: bool(syncs.append(counted.syncs.copy())),  # type: ignore[func-returns-value]
            accumulate=accumulate,
        )
    assert len(syncs) == 3
    assert syncs[2] - syncs[1] == {}


@pytest.mark.slow
def test_slots_that_stay_padded_do_not_change_a_c4_models_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU res5 computes all slots, on a CPU those in use; batch norm that learns must not tell the difference."""
    images, targets, trained = random_images(2, 64), random_targets(2, 64), []
    images = replace(images, pixels=images.pixels.double())
    few = ["model.sampler.num_samples=48", "model.rpn.post_nms_train=16"]
    for padded in (False, True):
        monkeypatch.setattr(structures, "_stays_padded", lambda slots, padded=padded: padded)
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
    """torchvision 0.29's takes 4,426, counted in the same way (benchmarks/train.md). Dispatches cost time on a GPU,
    where `fast_convolutions` has no effect."""
    model = build("model=r50_fpn", *TINY, "model.backbone.norm=frozen_bn")
    step = our_step(model, batch, CPU, "fp32", fast_convolutions=False)
    step()
    with Counted() as counted:
        step()
    assert 500 < counted.dispatches <= 4426 / 3


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


def run_train(
    learner: Learner,
    batches: Iterator[TrainBatch],
    log: RunLog | None = None,
    after: Callable[[int, Report | None], bool] = lambda step, report: False,
    limit: float = 1e9,
    accumulate: int = 1,
) -> None:
    schedule = learner.schedule
    log = RunLog(Path(), 0, schedule.steps, schedule.batch_size, active=False) if log is None else log
    with log:
        guard = LossGuard(CPU, limit)
        train(learner, batches, World(), guard, log, lambda: False, after, accumulate=accumulate)


def with_stochastic_depth(model: MaskRCNN) -> MaskRCNN:
    """Half of the rows of res4 and res5 are dropped."""
    for stage in ("res4", "res5"):
        block = model.backbone.get_submodule(f"stages.{stage}")
        block.register_forward_hook(lambda m, given, out: stochastic_depth(out, 0.5, "row", m.training))
    return model


def test_counting_sees_the_rows_that_learn_and_leaves_nothing_behind() -> None:
    """Two parts of a step, in a model that drops rows at random and whose batch norms learn."""
    parts = [
        TrainBatch(random_images(4, 64, seed), random_targets(4, 64, seed), list(range(4)))
        for seed in range(2)
    ]
    model = with_stochastic_depth(build(*TINY, "model.backbone.norm=bn", "model.sampler.num_samples=64"))
    passes: list[dict[str, Loss]] = []
    model.register_forward_hook(lambda m, given, out: passes.append(out))
    schedule = Schedule(steps=3, batch_size=8, lr=0.01, lr_batch_size=8, warmup_steps=0)
    reports: list[Report] = []
    run_train(
        Learner(model, schedule, CPU, "fp32"),
        cycle(parts),
        after=lambda step, report: bool(report is not None and reports.append(report)),
        accumulate=2,
    )
    assert len(passes) == 3 * 4
    assert len(reports) == 2
    dropped = []
    for step, report in enumerate(reports):
        counted, learned = passes[4 * step : 4 * step + 2], passes[4 * step + 2 : 4 * step + 4]
        for name in learned[0]:
            total, count = (
                sum(float(getattr(part[name], what)) for part in learned) for what in ("total", "count")
            )
            assert sum(float(part[name].count) for part in counted) == count, name
            assert report.losses[name] == pytest.approx(total / count), name
            dropped.append(count)
    assert len(set(dropped)) > 2  # what is counted does differ from step to step
    norms = {name: int(value) for name, value in model.named_buffers() if "num_batches" in name}
    assert norms
    assert set(norms.values()) == {3 * 2}


def test_a_gradient_that_is_not_finite_ends_the_run_whatever_is_drawn_of_it(tmp_path: Path) -> None:
    schedule = Schedule(steps=9, batch_size=2, lr=1e30, lr_batch_size=2, warmup_steps=0)
    learner = Learner(build(*TINY, "model.backbone.norm=frozen_bn"), schedule, CPU, "fp32")
    one = TrainBatch(random_images(2, 64), random_targets(2, 64), [0, 1])
    log = RunLog(tmp_path, 0, 9, 2, Log(histograms=1))
    with pytest.raises(LossError):
        run_train(learner, repeat(one), log, limit=1e38)


@pytest.mark.slow
def test_graphs_are_told_where_a_pass_begins_and_kept_out_of_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch's CUDA graph trees want it. On a CPU torch compiles the same, and captures nothing."""
    torch.compiler.reset()
    counters.clear()
    events: list[str] = []
    real = torch.compiler.cudagraph_mark_step_begin
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: (events.append("mark"), real()))
    one = TrainBatch(random_images(2, 64), random_targets(2, 64), [0, 1])
    one = one._replace(images=replace(one.images, pixels=one.images.pixels.double()))
    schedule = Schedule(steps=3, batch_size=2, lr=1e-5, lr_batch_size=2, warmup_steps=0)
    trained, detected = [], []
    for compiled in (False, True):
        model = build(*TINY, "model.backbone.norm=frozen_bn").double()
        learner = Learner(model, schedule, CPU, "fp64")
        if compiled:
            learner.compile(cuda_graphs=True)
        model.register_forward_pre_hook(lambda m, given: events.append("pass"))
        events.clear()
        run_train(learner, repeat(one))
        assert not counters["graph_break"]
        assert events == (["mark", "pass"] if compiled else ["pass"]) * 3
        before = counters["frames"]["total"]
        assert bool(before) == compiled
        with learner.evaluating(), torch.no_grad():
            detected.append(model.eval().detect(one.images))
        assert counters["frames"]["total"] == before
        trained.append(model.state_dict())
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(detected[1].boxes, detected[0].boxes, rtol=1e-6, atol=1e-5)


@pytest.mark.long
def test_memory_is_flat_over_2000_steps(tmp_path: Path) -> None:
    """The least resident memory of the steps 200 to 400, and of the last 200 of 2,000: images decoded, weights
    averaged, figures and histograms written. The least, because freed blocks of a layer's size come and go."""
    torch.set_num_threads(1)
    source = Shapes(str(tmp_path / "data"), 32, 1, 64, min_radius=4, max_radius=12, num_classes=NUM_CLASSES)
    loader = TrainLoader(source.train(), Transform(), 2)
    schedule = Schedule(steps=2000, batch_size=2, lr=1e-6, lr_batch_size=2, ema=0.99)
    model = build(*TINY, "model.rpn.post_nms_train=50", "model.rpn.pre_nms_train=50")
    early, late = [], []

    def after(step: int, report: Report | None) -> bool:
        if 200 <= step < 400 or step >= 1800:
            (early if step < 400 else late).append(resident_mib())
        return False

    log = RunLog(tmp_path, 0, 2000, 2, Log(histograms=100))
    run_train(Learner(model, schedule, CPU, "fp32"), loader.batches(), log, after)
    print(
        f"resident memory of the steps 200 to 400, and of the last 200: {min(early):.0f}, {min(late):.0f} MiB"
    )
    assert min(late) - min(early) < 20


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
