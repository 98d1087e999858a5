"""Paths are taken as the shell hands them over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from maskrcnn.config.compose import _parse

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
]


def value_of(key: str, path: str) -> object:
    """What Hydra hands to OmegaConf, with OmegaConf's own escape of an interpolation taken back."""
    (override,) = _parse([f"{key}={path}"])
    return OmegaConf.create({"x": override.value()})["x"]


@pytest.mark.parametrize("path", ODD)
@pytest.mark.parametrize("key", KEYS)
def test_a_path_is_itself(key: str, path: str) -> None:
    assert value_of(key, path) == path


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
