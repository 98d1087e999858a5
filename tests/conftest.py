"""Settings of every test process, and one tiny run that the tests of the tools share.

The tensors of the tests are small and pytest-xdist starts a process per core, so each process computes on one thread.
"""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported; processes that tests start inherit it
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Sequence
from pathlib import Path

import pytest

TINY_MODEL = [
    "model.pyramid.out_channels=16",
    "model.box_head.trunk.dim=32",
    "model.mask_head.trunk.dim=16",
    "model.mask_head.predictor.dim=16",
    "model.sampler.num_samples=16",
    "model.box_head.score_threshold=0.0",
    "model.box_head.num_detections=10",
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments for a run of seconds: 16 + 6 images of 96x96."""
    root = tmp_path_factory.mktemp("shapes")
    return [
        f"data.root={root}",
        "data.source.num_train=16",
        "data.source.num_val=6",
        "data.source.image_size=96",
        "data.num_workers=0",
        "schedule.steps=6",
        "schedule.batch_size=2",
        "schedule.warmup_steps=2",
        "checkpoint.every=2",
        "log.every=2",
        "threads=1",
        *TINY_MODEL,
    ]


@pytest.fixture(scope="session")
def run(tiny: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a finished run."""
    from maskrcnn.cli import train

    directory = tmp_path_factory.mktemp("run") / "whole"
    train.main([*tiny, f"run_dir={directory}"])
    return directory
