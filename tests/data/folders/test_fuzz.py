"""Exports with a wrong value anywhere: they are read, or refused with one sentence; nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.errors import UserError
from tests.data.folders.conftest import L_SHAPE, SIZE, everything, read
from tests.data.folders.test_label_studio import L_POINTS, RLE, result, task
from tests.data.folders.test_labelme import shape
from tests.data.folders.test_via import POLYGON, image, region

JUNK = [None, -1, 0, 1e308, float("nan"), "", "a.jpg", [], [[]], {}, True, 2**70, [None], {"a": 1}]
FILES: dict[str, Any] = {
    "labelme": {
        "shapes": [
            shape("nut", L_SHAPE),
            shape("nut", [[1, 1], [5, 5]], "circle"),
            shape("nut", [[1, 2], [3, 4]], "line"),
        ],
        "imagePath": "a.jpg",
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    },
    "via": {
        "a.jpg": image(
            "a.jpg",
            region(POLYGON, kind="nut"),
            region({"name": "circle", "cx": 5, "cy": 5, "r": 3}, kind="nut"),
        )
    },
    "label_studio": [
        task(
            "a.jpg",
            result("polygonlabels", ["nut"], points=L_POINTS),
            result("brushlabels", ["nut"], rle=RLE, format="rle"),
        )
    ],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value of a json."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if len(path) < 8 and key not in range(3, 1000):
            yield from places(item, (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_wrong_value_anywhere_is_read_or_refused(name: str, picture: Callable[..., Path]) -> None:
    root = picture("a.jpg").parent
    rng = np.random.default_rng(0)
    ways = list(places(FILES[name]))
    refused = 0
    for _ in range(150):
        content = with_value(FILES[name], ways[rng.integers(len(ways))], JUNK[rng.integers(len(JUNK))])
        (root / "export.json").write_text(json.dumps(content))
        try:
            read(everything(root, rectangles="masks"))
        except UserError:
            refused += 1
    assert refused > 20
