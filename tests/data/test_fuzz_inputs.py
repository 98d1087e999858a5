"""A sound data set changed at random: it is read with right data, or refused by one UserError that names the file.

``MASKRCNN_FUZZ_SECONDS=3600 python -m pytest tests/data/test_fuzz_inputs.py`` runs longer than a minute.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from maskrcnn.data.check import check_coco
from maskrcnn.data.clean import cleaned
from maskrcnn.data.dataset import Example
from maskrcnn.data.defects import Effect
from maskrcnn.data.formats.coco import CocoDataset
from maskrcnn.data.formats.coco_json import load_annotations, select
from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import evaluate
from maskrcnn.prediction.draw import draw_results

pytestmark = pytest.mark.slow

Json = Any
SECONDS = float(os.environ.get("MASKRCNN_FUZZ_SECONDS", "45"))
SIZES = ((40, 60), (60, 40), (48, 48))
FUZZ = settings(
    max_examples=max(int(15 * SECONDS), 50),
    deadline=None,
    derandomize="MASKRCNN_FUZZ_SECONDS" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def sound() -> Json:
    """Three images with polygons, both kinds of RLE, a crowd, a hole-free L of two polygons and keypoints."""
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[10:20, 10:30] = 1
    compressed = coco_mask.encode(mask)
    rle = {"size": [40, 60], "counts": compressed["counts"].decode()}
    runs = {"size": [60, 40], "counts": [5 * 60 + 5, *[10, 50] * 9, 10, 60 * 40 - 305 - 60 * 9 - 10]}
    square = [5, 6, 25, 6, 25, 16, 5, 16]
    annotations: list[Json] = [
        {"image_id": 1, "category_id": 3, "bbox": [5, 6, 20, 10], "area": 200, "segmentation": [square]},
        {"image_id": 1, "category_id": 7, "bbox": [10, 10, 20, 10], "area": 200, "segmentation": rle},
        {
            "image_id": 2,
            "category_id": 3,
            "bbox": [5, 5, 10, 10],
            "area": 100,
            "segmentation": runs,
            "iscrowd": 1,
        },
        {"image_id": 3, "category_id": 7, "bbox": [2, 2, 30.5, 30], "segmentation": [[2, 2, 32.5, 2, 2, 32]]},
        {"image_id": 3, "category_id": 3, "bbox": [8, 8, 8, 8], "keypoints": [9, 9, 2, 12, 12, 1]},
    ]
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(SIZES, 1)
        ],
        "annotations": [
            {"id": n, "iscrowd": 0, "tag": f"object {n}", **entry} for n, entry in enumerate(annotations, 1)
        ],
        "categories": [
            {"id": 3, "name": "cat", "keypoints": ["left_ear", "right_ear"], "skeleton": [[1, 2]]},
            {"id": 7, "name": "dog"},
        ],
    }


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        rng = np.random.default_rng(0)
        for n, (h, w) in enumerate(SIZES, 1):
            cv2.imwrite(f"{name}/{n}.png", rng.integers(0, 256, (h, w, 3), np.uint8))
        yield Path(name)


# --- changes of the json ------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([0, -1, 10**6, 2**31, 2**53, 2**63 - 1, 2**63, 10**30, 10**400]),
    st.floats(),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.sampled_from(
        ["", "1", "3.0", " 7 ", "x", "1.png", "../1.png", "a/2.png", "\x00", "%31.png", "[1].png", "\u00fc"]
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner)
    ),
    max_leaves=8,
)


def places(node: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values below a node."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


CHANGES = (
    "value",
    "value",
    "text",
    "scale",
    "not finite",
    "not finite",
    "remove",
    "double",
    "wrap",
    "unwrap",
    "swap",
    "garble",
    "borrow",
)


def _field(path: tuple[Any, ...]) -> str:
    """The names on a path, without the places in lists: annotations/bbox."""
    return "/".join(step for step in path if isinstance(step, str))


@st.composite
def changed(draw: Callable[..., Any]) -> Json:
    """The sound content with one to three values replaced, removed, doubled, wrapped or exchanged."""
    data = sound()
    for _ in range(draw(st.integers(1, 3))):
        every = [path for path in places(data) if len(path) > 1 or draw(st.integers(0, 30)) == 0]
        if not every:
            break
        # By name first: one of a hundred numbers of polygons is no more worth a try than an iscrowd.
        field = draw(st.sampled_from(sorted({_field(path) for path in every})))
        *way, key = draw(st.sampled_from([path for path in every if _field(path) == field]))
        parent = data
        for step in way:
            parent = parent[step]
        change = draw(st.sampled_from(CHANGES))
        value = parent[key]
        if change == "value":
            parent[key] = draw(VALUES)
        elif change == "text":
            parent[key] = str(value)
        elif change == "scale" and isinstance(value, int | float) and abs(value) < 1e300:
            parent[key] = value * draw(st.sampled_from([-1, 0, 0.5, 0.01, 2, 3, 100]))
        elif change == "not finite" and isinstance(value, int | float):
            parent[key] = draw(st.sampled_from([float("nan")] * 4 + [float("inf"), 10**400]))
        elif change == "remove":
            del parent[key]
        elif change == "double" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(value))
        elif change == "wrap":
            parent[key] = [value]
        elif change == "unwrap" and isinstance(value, list) and value:
            parent[key] = value[0]
        elif change == "garble" and isinstance(value, str) and value:
            place = draw(st.integers(0, len(value) - 1))
            parent[key] = (
                value[:place] + draw(st.sampled_from(["", "~", "0", "o", "\u00e9"])) + value[place + 1 :]
            )
        elif change == "borrow" and isinstance(parent, dict) and len(way) == 2:
            siblings = [entry for entry in data[way[0]] if isinstance(entry, dict) and key in entry]
            parent[key] = copy.deepcopy(draw(st.sampled_from(siblings))[key])
        elif change == "swap" and isinstance(parent, list) and len(parent) > 1:
            other = draw(st.integers(0, len(parent) - 1))
            parent[key], parent[other] = parent[other], parent[key]
    return data


def names_one(error: UserError, *words: str) -> None:
    assert any(word in str(error) for word in words)


def holds(example: Example, dataset: CocoDataset) -> None:
    """What was read can be trained on: right types, finite numbers, boxes and masks inside of the image."""
    height, width = example.image.shape[:2]
    assert (height, width) in SIZES
    assert np.isfinite(example.boxes).all()
    assert (example.boxes[:, :2] < example.boxes[:, 2:]).all()
    assert (example.boxes >= 0).all()
    assert (example.boxes <= [width, height, width, height]).all()
    assert ((example.labels >= 0) & (example.labels < len(dataset.categories))).all()
    assert len(example.boxes) == len(example.labels) == len(example.crowd) == len(example.masks)
    for mask in example.masks:
        if mask is not None:
            h, w = mask.bits.shape
            assert mask.bits.any()
            assert 0 <= mask.x0 <= width - w
            assert 0 <= mask.y0 <= height - h
    if example.keypoints is not None:
        assert np.isfinite(example.keypoints).all()
        assert set(np.unique(example.keypoints[..., 2]).tolist()) <= {0, 1, 2}


def accounted(data: Json, dataset: CocoDataset) -> None:
    """No annotation is lost without a defect of its own, and each is with the image and class that it names."""
    named = {entry["id"]: entry for entry in dataset.ground_truth()["annotations"]}
    assert len(named) == int(dataset.num_objects.sum())
    lost = len(data["annotations"]) - len(named)
    dropped = sum(d.effect is Effect.DROPPED for d in select(data, None).defects)
    assert lost == dropped
    for entry in data["annotations"]:
        read = named.get(meant(entry["id"]))
        if read is not None:
            assert read["image_id"] == meant(referred(data["images"], entry["image_id"], "file_name"))
            assert read["category_id"] == meant(referred(data["categories"], entry["category_id"], "name"))


def scored(dataset: CocoDataset) -> None:
    """The truth, given as predictions, scores and draws."""
    truth = dataset.ground_truth()
    found = [{**entry, "score": 0.9} for entry in truth["annotations"] if not entry["iscrowd"]]
    ap = evaluate(found, truth, ("bbox",))["bbox"]["AP"]
    assert ap == pytest.approx(100) if found else ap is None
    names = {c["id"]: c["name"] for c in truth["categories"]}
    draw_results(
        dataset.read(0).image,
        [a for a in truth["annotations"] if a["image_id"] == dataset.image_id(0)],
        names,
    )


@FUZZ
@given(changed())
def test_a_changed_json_is_read_right_or_refused(folder: Path, data: Json) -> None:
    path = folder / "changed.json"
    path.write_text(json.dumps(data))
    try:
        dataset = CocoDataset(path, folder)
        examples = [dataset.read(index) for index in range(len(dataset))]
    except UserError as error:
        names_one(error, str(path), ".png")
        return
    for example in examples:
        holds(example, dataset)
    accounted(load_annotations(path), dataset)
    scored(dataset)


@FUZZ
@given(changed())
def test_a_cleaned_json_is_sound_and_nothing_in_it_is_new(folder: Path, data: Json) -> None:
    path = folder / "changed.json"
    path.write_text(json.dumps(data))
    try:
        content = cleaned(load_annotations(path), folder).content
    except UserError:
        return
    path.write_text(json.dumps(content))
    again, _ = check_coco(load_annotations(path), folder)
    assert [defect for defect in again.defects if not defect.harmless] == []
    CocoDataset(path, folder)
    # Each object that is kept lies on the file, and has the class, that the changed json gives it.
    files = {entry["id"]: entry["file_name"] for entry in content["images"]}
    classes = {entry["id"]: entry["name"] for entry in content["categories"]}
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    for entry in content["annotations"]:
        assert "bbox" not in entry or lies_in(entry["bbox"], *sizes[entry["image_id"]])
        given_by = [
            a for a in data["annotations"] if isinstance(a, dict) and a.get("tag") == entry.get("tag")
        ]
        if len(given_by) == 1:
            image = referred(data["images"], given_by[0]["image_id"], "file_name")
            owners = [i.get("file_name") for i in entries_of(data["images"], image)]
            assert set(owners) == {files[entry["image_id"]]} or set(owners).isdisjoint(ORIGINALS)
            category = referred(data["categories"], given_by[0]["category_id"], "name")
            names = [c.get("name") or meant(c["id"]) for c in entries_of(data["categories"], category)]
            assert set(map(str, names)) == {classes[entry["category_id"]]}


ORIGINALS = {"1.png", "2.png", "3.png"}


def lies_in(box: Sequence[float], width: int, height: int) -> bool:
    """Whether a box x, y, width, height has an area, and a part of it lies in the image."""
    x, y, w, h = map(float, box)
    return w > 0 and h > 0 and -w < x < width and -h < y < height  # never with NaN


def entries_of(entries: Json, wanted: Json) -> list[Json]:
    """The entries whose id a person takes for ``wanted``."""
    return [entry for entry in entries if isinstance(entry, dict) and meant(entry.get("id")) == meant(wanted)]


def referred(entries: Json, wanted: Json, name: str) -> Json:
    """The id that an annotation gives: its own, or that of the one entry with this name."""
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict) and entry.get(name) == wanted]
    return ids[0] if isinstance(meant(wanted), str) and len(ids) == 1 else wanted


def meant(value: Json) -> Json:
    """The number that a value is or spells: whole ones as such, 3.5 as itself. True is no number."""
    if isinstance(value, bool):
        return str(value)
    try:
        if isinstance(value, int):
            return int(value)
        return int(float(value)) if float(value).is_integer() else float(value)
    except (TypeError, ValueError, OverflowError):
        return value


# --- files --------------------------------------------------------------------------------------------------


@FUZZ
@given(
    cut=st.integers(0, 4000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4)
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_a_damaged_image_is_read_in_its_size_or_named(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, cut: int, flips: list[tuple[int, int]]
) -> None:
    place = tmp_path_factory.mktemp("images")
    try:
        file = place / f"1{suffix}"
        cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
        content = bytearray(file.read_bytes())
        for at, value in flips:
            content[at % len(content)] = value
        file.write_bytes(bytes(content[: max(len(content) - cut % len(content), 1)] if cut % 3 else content))
        path = place / "a.json"
        image = {"id": 1, "file_name": file.name, "height": 24, "width": 32}
        path.write_text(
            json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "x"}]})
        )
        try:
            example = CocoDataset(path, place).read(0)
        except UserError as error:
            names_one(error, file.name)
            return
        assert example.image.shape == (24, 32, 3)
        assert example.image.dtype == np.uint8
    finally:
        shutil.rmtree(place)


NAMES = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\\"), min_size=1, max_size=12
).filter(lambda name: name.strip(". ") != "" and len(name.encode()) < 200)


@FUZZ
@given(folder_name=NAMES, file_name=NAMES)
def test_any_name_that_a_file_system_takes_is_a_path(
    tmp_path_factory: pytest.TempPathFactory, folder_name: str, file_name: str
) -> None:
    place = tmp_path_factory.mktemp("names")
    try:
        images = place / folder_name
        images.mkdir()
        cv2.imwrite(str(place / "x.png"), np.zeros((24, 32, 3), np.uint8))
        (place / "x.png").rename(images / f"{file_name}.png")
        path = place / f"{folder_name}.json"
        image = {"id": 1, "file_name": f"{file_name}.png", "height": 24, "width": 32}
        path.write_text(
            json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "x"}]})
        )
        dataset = CocoDataset(path, images)
        assert dataset.image_info(0) == (f"{file_name}.png", 24, 32)
        assert dataset.read(0).image.shape == (24, 32, 3)
    finally:
        shutil.rmtree(place)
