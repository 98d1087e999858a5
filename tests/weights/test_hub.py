"""Weights as safetensors, and from a server that answers as the Hugging Face Hub does."""

from __future__ import annotations

import builtins
import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import maskrcnn
from maskrcnn.cli import eval as eval_command
from maskrcnn.cli import export, train
from maskrcnn.errors import UserError
from maskrcnn.models import hub
from maskrcnn.models.backbones.resnet import ResNet
from maskrcnn.training import checkpoint
from maskrcnn.weights import read_weights
from tests.weights.hub_server import serving

safetensors = pytest.importorskip("safetensors.torch", reason="the extra maskrcnn[hub] is not installed")
pytest.importorskip("huggingface_hub", reason="the extra maskrcnn[hub] is not installed")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's weights, in a folder of repositories."""
    path = tmp_path_factory.mktemp("repositories") / "someone" / "detector" / "sub" / "model.safetensors"
    export.main([f"checkpoint={run / 'last.pt'}", "format=safetensors", f"out={path}"])
    return path


@pytest.fixture
def server(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[str]]]:
    """The address of a server with that folder, and its requests; the cache is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(exported.parents[3]) as (address, requests):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield address, requests


ADDRESS = "hf://someone/detector/sub/model.safetensors"


def tensors_by_hand(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What the format says: the length of a json header, the header, the numbers end to end."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    kinds = {"F32": np.float32, "I64": np.int64}
    return {
        name: torch.from_numpy(
            np.frombuffer(data[8 + length :][slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(
                entry["shape"]
            )
        )
        for name, entry in header.items()
    }, metadata


def test_the_file_holds_the_checkpoints_weights_and_config(run: Path, exported: Path) -> None:
    content = torch.load(run / "last.pt", weights_only=True)
    found, metadata = tensors_by_hand(exported)
    assert found.keys() == content["model"].keys()
    assert all(torch.equal(found[name], value) for name, value in content["model"].items())
    about = json.loads(metadata["maskrcnn"])
    assert about == {"step": 6, "config": json.loads(json.dumps(content["config"]))}
    assert metadata["format"] == "pt"  # what other readers ask for


def test_averaged_weights_are_exported_where_there_are_some(run: Path, tmp_path: Path) -> None:
    content = checkpoint.load(run / "last.pt")
    content["ema"] = {name: value + 1 for name, value in content["model"].items()}
    checkpoint.save(tmp_path / "averaged.pt", content)
    export.main([f"checkpoint={tmp_path / 'averaged.pt'}", "format=safetensors"])
    found = safetensors.load_file(tmp_path / "averaged.safetensors")
    assert all(torch.equal(found[name], value) for name, value in content["ema"].items())


def test_the_predictor_and_eval_take_it_as_they_take_the_checkpoint(
    run: Path, exported: Path, tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    images = [np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)]
    expected = maskrcnn.Predictor(str(run / "last.pt"), device="cpu").predict(images)[0]
    for source in (str(exported), ADDRESS):
        found = maskrcnn.Predictor(source, device="cpu").predict(images)[0]
        assert len(found) == len(expected) > 0
        assert torch.equal(found.boxes, expected.boxes)
        assert found.masks == expected.masks
    eval_command.main([f"checkpoint={ADDRESS}", f"run_dir={tmp_path / 'scored'}", "threads=1"])
    scored = json.loads((tmp_path / "scored" / "predictions.json").read_text())
    assert scored == json.loads((run / "predictions.json").read_text())


@pytest.mark.slow
def test_a_run_starts_from_an_address(
    run: Path,
    tiny: Sequence[str],
    tmp_path: Path,
    server: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    train.main([*tiny, f"init={ADDRESS}", "schedule.steps=1", "schedule.lr=0", f"run_dir={tmp_path / 'run'}"])
    assert "0 entries not loaded" in capsys.readouterr().out
    before, after = (checkpoint.load_model(r / "last.pt")["model"] for r in (run, tmp_path / "run"))
    weights = [name for name in before if name.endswith("weight") and ".bn" not in name]
    assert len(weights) > 20
    assert all(torch.equal(before[name], after[name]) for name in weights)


def test_a_download_is_kept(server: tuple[str, list[str]]) -> None:
    _, requests = server
    first, second = hub.local_path(ADDRESS), hub.local_path(ADDRESS)
    assert first == second
    assert len([request for request in requests if request.startswith("GET")]) == 1
    pinned = hub.local_path(ADDRESS.replace("detector", "detector@0123456789abcdef0123456789abcdef01234567"))
    assert pinned.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_backbone_starts_from_an_address(
    suffix: str, exported: Path, server: tuple[str, list[str]]
) -> None:
    torch.manual_seed(5)
    state = torchvision.models.resnet18().state_dict()
    path = exported.parents[1] / f"resnet18{suffix}"
    (safetensors.save_file if suffix == ".safetensors" else torch.save)(state, path)
    backbone = ResNet("resnet18", weights=f"hf://someone/detector/resnet18{suffix}")
    assert torch.equal(backbone.state_dict()["stages.res5.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_other_programs_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.save_file({"a": torch.arange(3)}, path)
    assert read_weights(path)["a"].tolist() == [0, 1, 2]
    assert checkpoint.load(path)["a"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"plain.safetensors is not one of tools/train.py: it has no model"):
        maskrcnn.Predictor(str(path))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            "hf://someone/nothing/model.safetensors",
            "there is no repository someone/nothing; of a private one, log in",
        ),
        ("hf://someone/detector/other.safetensors", "has no file other.safetensors; its page lists"),
        ("hf://someone/detector@v9/sub/model.safetensors", "repository someone/detector has no revision v9"),
        ("hf://detector", "expected hf://user/repo/file"),
        ("hf://some one/detector/a.pt", "some one/detector"),
    ],
)
def test_wrong_addresses(address: str, words: str, server: tuple[str, list[str]]) -> None:
    with pytest.raises(UserError, match=words) as caught:
        hub.local_path(address)
    assert str(caught.value).startswith(address)


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards: nobody listens
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its attempts
    with pytest.raises(
        UserError, match=r"could not be downloaded \(.+\), and is not in the cache.* its path instead"
    ):
        hub.local_path(ADDRESS)


def test_damaged_files(tmp_path: Path, exported: Path) -> None:
    path = tmp_path / "half.safetensors"
    path.write_bytes(exported.read_bytes()[:-100])
    for read in (checkpoint.load, read_weights):
        with pytest.raises(UserError, match=r"half.safetensors cannot be read as safetensors: "):
            read(path)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        ResNet("resnet18", weights=str(path))


@pytest.mark.parametrize(
    ("package", "source"), [("huggingface_hub", ADDRESS), ("safetensors", "weights.safetensors")]
)
def test_a_missing_extra_is_named(
    package: str, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=rf"{package}: pip install 'maskrcnn\[hub\]'"):
        checkpoint.load(source)


def test_settings_that_belong_elsewhere_are_refused(run: Path) -> None:
    with pytest.raises(UserError, match="seed=1: safetensors hold the weights"):
        export.main([f"checkpoint={run / 'last.pt'}", "format=safetensors", "seed=1"])
    with pytest.raises(UserError, match="there are onnx, torch_export, safetensors"):
        export.main([f"checkpoint={run / 'last.pt'}", "format=gguf"])
