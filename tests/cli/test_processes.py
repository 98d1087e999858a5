"""Several processes as one run, really started by torchrun: the same losses, the same evaluation, the same ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from maskrcnn.training import checkpoint
from maskrcnn.training.distributed import joined
from tests.cli.test_survival import ROOT, TOOL, environment, wait_for

pytestmark = pytest.mark.slow
STEPS = 20


def torchrun(processes: int, arguments: Sequence[str]) -> str:
    """Run tools/train.py under torchrun to its end; what it printed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    launcher += [f"--master_port={free_port()}"]
    done = subprocess.run(
        [*launcher, *TOOL[1:], *arguments], env=environment(), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def workers(count: int, arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """The processes that torchrun would start, so that each one's own exit status is seen."""
    port, started = free_port(), []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        started.append(
            subprocess.Popen(
                [*TOOL, *arguments],
                env={
                    **environment(),
                    **{k: str(v) for k, v in place.items()},
                    "MASTER_ADDR": "localhost",
                },
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    return started


@pytest.fixture(scope="module")
def exact(tiny: Sequence[str]) -> list[str]:
    """Twenty steps of four images in float64 with group norm, each step reported."""
    changed = ("schedule.steps", "schedule.batch_size", "checkpoint.every", "log.every")
    kept = [a for a in tiny if not a.startswith(changed)]
    return [
        *kept,
        f"schedule.steps={STEPS}",
        "schedule.batch_size=4",
        "checkpoint.every=1000",
        "log.every=1",
        "precision=fp64",
        "model.backbone.norm=gn",
        "deterministic=true",
        "evaluation.batch_size=1",
    ]


@pytest.fixture(scope="module")
def alone(exact: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, without accumulation and without torchrun."""
    directory = tmp_path_factory.mktemp("alone")
    done = subprocess.run(
        [*TOOL, *exact, f"run_dir={directory}"], env=environment(), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def losses(run_dir: Path) -> dict[str, list[float]]:
    """Every loss term, step by step, from TensorBoard."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    names = [tag for tag in events.Tags()["scalars"] if tag.startswith("loss/")]
    return {name: [event.value for event in events.Scalars(name)] for name in names}


@pytest.mark.slow
def test_a_users_mistake_is_the_same_sentence_in_all_processes(exact: list[str], tmp_path: Path) -> None:
    """Of data, which the main process reads first, and of the run directory, which it alone reads."""
    (tmp_path / "last.pt").write_bytes(b"nothing")
    for changes, words in (
        (["data.source.num_val=0"], "num_val must be at least 1"),
        ([f"run_dir={tmp_path}"], "no checkpoint is left to resume from"),
    ):
        for process in workers(2, [*exact, *changes]):
            printed = process.communicate()[0]
            assert process.returncode == 2, printed
            assert words in printed
            assert "Traceback" not in printed


@pytest.mark.parametrize(("processes", "parts"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_losses_do_not_depend_on_how_the_batch_is_shared(
    exact: list[str], alone: Path, tmp_path: Path, processes: int, parts: int
) -> None:
    printed = torchrun(processes, [*exact, f"accumulate={parts}", f"run_dir={tmp_path}"])
    each = 4 // (processes * parts)
    assert f"20 steps of 4 images ({processes} processes x {parts} parts x {each} images)" in printed
    found, expected = losses(tmp_path), losses(alone)
    assert len(expected) == 6
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert len(values) == STEPS
        assert found[name] == pytest.approx(values, rel=1e-5), name
    assert expected["loss/total"][-1] < expected["loss/total"][0]
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(
        (alone / "metrics.json").read_text()
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_evaluation_shared_by_processes_is_the_same_byte_for_byte(
    exact: list[str], alone: Path, tmp_path: Path, processes: int
) -> None:
    shutil.copy(alone / "last.pt", tmp_path)
    printed = torchrun(processes, [*exact, f"run_dir={tmp_path}"])
    assert f"resuming from step {STEPS} of {STEPS}" in printed
    for name in ("predictions.json", "metrics.json"):
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes()
    assert json.loads((alone / "predictions.json").read_text())


def endless(exact: list[str], run_dir: Path) -> list[str]:
    kept = [a for a in exact if not a.startswith(("schedule.steps", "checkpoint.every"))]
    return [*kept, "schedule.steps=100000", "checkpoint.every=3", f"run_dir={run_dir}"]


@pytest.mark.parametrize("every", [3, 1])
def test_sigterm_to_one_of_two_saves_and_both_exit_75(exact: list[str], tmp_path: Path, every: int) -> None:
    both = workers(2, [*endless(exact, tmp_path), f"checkpoint.every={every}"])
    wait_for(both[0], r"^step 4/")
    both[1].send_signal(signal.SIGTERM)
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [75, 75], printed
    saved = checkpoint.load_model(tmp_path / "last.pt")["step"]
    assert f"interrupted: saved at step {saved} of" in printed[0]
    assert saved >= max(int(step) for step in re.findall(r"^step (\d+)/", printed[0], re.M) or ["4"])


def test_torchrun_restarts_a_run_that_lost_a_process(exact: list[str], tmp_path: Path) -> None:
    """It resumes from its last checkpoint, and ends as one that lost nobody."""
    changed = [a for a in exact if not a.startswith("checkpoint.every")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1"]
    launcher += [f"--master_port={free_port()}", *TOOL[1:]]
    run = subprocess.Popen(
        [*launcher, *changed, "checkpoint.every=3", f"run_dir={tmp_path}"],
        env=environment(),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_for(run, r"^step 7/")
    owner = (tmp_path / "owner").read_text()
    os.kill(int(re.findall(r"process (\d+) on", owner)[0]), signal.SIGKILL)
    assert "resuming from step 6 of 20" in wait_for(run, r"^resuming from step")
    run.communicate(timeout=300)
    assert run.returncode == 0
    assert checkpoint.load_model(tmp_path / "last.pt")["step"] == STEPS


def differing(rank: int, size: int, port: int) -> None:
    """Fails where the first step's gradients of one batch are other bits than the second's."""
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(6)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 37))
    torch.manual_seed(rank + 1)
    images, gradients = torch.randn(4, 8, 8, 8), []
    with joined(torch.device("cpu")) as world:
        shared = world.parallel(model)
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            shared(images).square().sum().backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    first, *others = gradients
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_a_resumed_runs_first_step_adds_up_like_any_other() -> None:
    """Three numbers have an order, two have none."""
    torch.multiprocessing.spawn(differing, (3, free_port()), nprocs=3)


def joining_twice(rank: int, size: int, port: int) -> None:
    """The second process joins late, so that the first would find its old address in the launcher's store."""
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    for turn in range(3):
        time.sleep(rank)
        with joined(torch.device("cpu")):
            total = torch.tensor(rank + turn)
            dist.all_reduce(total)
            assert total == 1 + 2 * turn


def test_the_processes_join_as_often_as_they_like() -> None:
    """`Trainer.fit` and then `Trainer.evaluate` in one script; torchrun's store outlives each joining."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(joining_twice, (2, store.port), nprocs=2)
