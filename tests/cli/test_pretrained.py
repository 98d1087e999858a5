"""Runs that start from weights: they resume as often as it takes, and their norms are those of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from maskrcnn.cli import train
from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.errors import UserError
from maskrcnn.training import checkpoint
from maskrcnn.training.distributed import open_device
from maskrcnn.training.initialise import norms_of
from maskrcnn.training.learner import build_optimizer
from maskrcnn.training.settings import Schedule


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in place of the download."""

    def instead(*arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return torchvision.models.resnet18().state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", instead)


@pytest.mark.slow
@pytest.mark.usefixtures("published")
def test_a_pretrained_run_goes_on_twice_and_its_weights_start_another(
    tiny: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*tiny, "init=imagenet", f"run_dir={tmp_path / 'run'}"]
    last = tmp_path / "run" / "last.pt"
    train.main(arguments)
    kept = (tmp_path / "run" / "step_00000004.pt").read_bytes()
    for _ in range(2):
        last.write_bytes(kept)
        capsys.readouterr()
        train.main(arguments)
        assert "resuming from step 4 of 6" in capsys.readouterr().out
    backbone = checkpoint.load_model(last)["config"]["model"]["backbone"]
    assert (backbone["weights"], backbone["norm"], backbone["frozen_stages"]) == ("imagenet", "frozen_bn", 2)
    # Its weights were learned with frozen norms; what starts from them has the same.
    assert norms_of(last) == ("frozen_bn", 2)
    finer = [*tiny, f"init={last}", f"run_dir={tmp_path / 'finer'}"]
    train.main([*finer, "schedule.steps=2"])
    backbone = checkpoint.load_model(tmp_path / "finer" / "last.pt")["config"]["model"]["backbone"]
    assert (backbone["weights"], backbone["norm"], backbone["frozen_stages"]) == (None, "frozen_bn", 2)
    # It goes on without the file that it started from.
    last.unlink()
    capsys.readouterr()
    train.main([*finer, "schedule.steps=3"])
    assert "resuming from step 2 of 3" in capsys.readouterr().out


def test_norms_of_other_files(tmp_path: Path) -> None:
    learned = torchvision.models.resnet18().state_dict()
    frozen = {name: value for name, value in learned.items() if "num_batches_tracked" not in name}
    torch.save(learned, tmp_path / "learned.pth")
    torch.save({"model": frozen}, tmp_path / "frozen.pth")
    assert norms_of(tmp_path / "learned.pth") == ("bn", 0)
    assert norms_of(tmp_path / "frozen.pth") == ("frozen_bn", 2)
    assert norms_of(tmp_path / "model_final.pkl") == ("frozen_bn", 2)


def test_weights_of_another_backbone_are_refused_with_new_heads_too(
    run: Path, tiny: Sequence[str], tmp_path: Path
) -> None:
    other = ["model=r50_fpn", f"init={run / 'last.pt'}", "init.reset_heads=true"]
    with pytest.raises(UserError, match="of a model with another backbone or pyramid"):
        train.main([*tiny, *other, f"run_dir={tmp_path}"])


def test_an_rpn_beside_given_proposals_is_refused(tiny: Sequence[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set model\.rpn=null"):
        train.main([*tiny, "proposals.train=ground_truth", f"run_dir={tmp_path}"])


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device takes a device with its index alone."""
    chosen = []

    def set_device(device: torch.device) -> None:
        if device.index is None:
            raise ValueError("Expected a torch.device with a specified index or an integer")
        chosen.append(device.index)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert open_device("auto", None) == torch.device("cuda", 3)
    assert open_device("cuda:1", None) == torch.device("cuda", 1)
    assert chosen == [3, 1]


def test_layer_decay_reaches_the_backbones_of_torchvision() -> None:
    config = configs.compose_config("train", ["model=mobilenet_v2", "num_classes=3"])
    model = assembly.build_model(config)
    schedule = Schedule(layer_decay=0.5)
    optimizer = build_optimizer(model, schedule)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    by_stage: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in scales and name.startswith("backbone.stages."):
            by_stage.setdefault(name.split(".")[2], set()).add(scales[id(parameter)])
    ordered = [by_stage[stage] for stage in sorted(by_stage, key=int)]
    assert all(len(stage) == 1 for stage in ordered)
    values = [next(iter(stage)) for stage in ordered]
    assert values == sorted(values)
    assert values[0] < values[-1] < 1
