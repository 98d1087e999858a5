"""Paths are taken as the shell hands them over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from maskrcnn.config.compose import build, compose_config, read_config
from maskrcnn.config.overrides import parse

ODD = [
    *(
        "with space",
        "a,b",
        "a=b",
        "Bilder_\u00dcbung",
        "\u6570\u636e",
        "x#1",
        "50%",
        "[new]",
        "it's",
        "plus+minus-@",
    ),
    *(
        "New folder (2)",
        "C:\\Users\\me\\a'b",
        "ends\\",
        "\\\\'x",
        "${oc.env:HOME}",
        "a${b}c",
        "\\${x}",
        "{a}",
        "a: b",
    ),
    *(
        "*",
        "~x",
        "'",
        '"',
        "0123",
        "true",
        "1e5",
        "!x",
        "& |;<>$HOME`ls`",
        " lead",
        "trail ",
        "[a,b]",
        "two\nlines",
    ),
]
KEYS = [
    "run_dir",
    "input",
    "checkpoint",
    "annotations",
    "predictions",
    "data.root",
    "data.train_images",
    "init",
    "image",
    "page",
    "out",
]


def value_of(key: str, path: str) -> object:
    """What Hydra hands to OmegaConf, with OmegaConf's own escape of an interpolation taken back."""
    (override,) = parse([f"{key}={path}"])
    return OmegaConf.create({"x": override.value()})["x"]


@pytest.mark.parametrize("path", ODD)
@pytest.mark.parametrize("key", KEYS)
def test_a_path_is_itself(key: str, path: str) -> None:
    assert value_of(key, path) == path


@pytest.mark.parametrize(
    "path", ["${x}/a.json", "a${b}c", "\\${x}", "[a=b], {c: d}", 'it\'s "q" #1', "\u6570\u636e *?"]
)
def test_a_data_source_is_built_with_the_path(path: str) -> None:
    for option, key in (("custom", "train_annotations"), ("folds", "images"), ("coco", "root")):
        config = compose_config("train", [f"data={option}", f"data.{key}={path}"])
        assert getattr(build(config.data.source), key) == path


@pytest.mark.parametrize("path", ["a${b}c/d", "\\${x}", "it's [a=b] ${", "\\\\server\\share"])
def test_a_stored_config_holds_the_path_and_its_references(path: str, tmp_path: Path) -> None:
    content = {"run_dir": path, "data": {"root": path, "source": {"root": "${data.root}"}}, "seed": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    config = read_config(tmp_path / "config.yaml")
    assert (config.run_dir, config.data.root, config.data.source.root, config.seed) == (path, path, path, 1)


def test_each_path_of_a_list_is_itself() -> None:
    found: Any = value_of("checkpoints", "[a=b/last.pt, it's/${x}.pt,'c,d/last.pt',(1)/best.pt]")
    assert list(found) == ["a=b/last.pt", "it's/${x}.pt", "c,d/last.pt", "(1)/best.pt"]


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=20)
)
def test_any_text_is_a_path(path: str) -> None:
    quoted = len(path) > 1 and path[0] == path[-1] and path[0] in "'\""
    if not quoted and path != "null":
        assert value_of("data.root", path) == path


def test_null_and_quotes_of_hydras_stay() -> None:
    assert value_of("run_dir", "null") is None
    assert value_of("run_dir", "'a b'") == "a b"
