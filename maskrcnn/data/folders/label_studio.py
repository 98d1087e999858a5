"""Label Studio's JSON: a list of tasks, each with an image and the results of its annotators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
import numpy.typing as npt

from maskrcnn.data.folders.entries import Entries, Outline, Size, readable
from maskrcnn.data.folders.folder import IMAGES, Folder, Part
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class LabelStudio:
    """Label Studio's JSON. An ellipse becomes the pixels inside it. Each brush result is one object.

    Args:
        annotation: which annotation of a task to read if there are several, in the order of the file. None refuses
            such tasks.
    """

    annotation: Literal["first", "last"] | None = None
    title = "Label Studio's JSON"
    layout = "the JSON export (not JSON-MIN), next to the images"

    def recognises(self, folder: Folder) -> bool:
        return any(_is_export(content) for content in folder.json_samples.values())

    def read(self, folder: Folder) -> dict[str, Part]:
        entries = Entries(folder)
        for path in folder.ending(".json"):
            tasks = folder.json(path)
            if not _is_export(tasks):
                continue
            for task in tasks:
                where = f"{path}, task {task.get('id')}"
                if "data" not in task:
                    raise UserError(f"{path} is Label Studio JSON-MIN, which leaves shapes out: export JSON")
                results = self._results(task, where)
                file = _file_of(task["data"], folder, path, where)
                if file is None:
                    entries.missing.append(str(_reference(task["data"], where)))
                elif results is not None:
                    _add_objects(entries, file, results, where)
        entries.unlabelled(folder.images)
        return entries.parts()

    def _results(self, task: dict[str, Any], where: str) -> list[Any] | None:
        """The results of a task's annotation; None if nobody has annotated it."""
        given = task.get("annotations", task.get("completions")) or []
        done = [annotation["result"] for annotation in given if not annotation.get("was_cancelled")]
        if len(done) > 1 and self.annotation is None:
            raise UserError(
                f"{where} has {len(done)} annotations: leave one, or set data.formats.label_studio.annotation=first "
                "(or last)"
            )
        return done[0 if self.annotation == "first" else -1] if done else None


def _is_export(content: Any) -> bool:
    """Whether the content is JSON or JSON-MIN."""
    return isinstance(content, list) and bool(content) and all(map(_is_task, content))


def _is_task(task: Any) -> bool:
    keys = set(task) if isinstance(task, dict) else set()
    return "annotation_id" in keys or ("data" in keys and bool({"annotations", "completions"} & keys))


def _reference(data: dict[str, Any], where: str) -> str:
    """The only text of a task that names an image."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    named = [value for value in texts.values() if unquote(value).lower().endswith(IMAGES)]
    if "image" in texts or len(named) == 1:
        return texts.get("image") or named[0]
    raise UserError(
        f"{where} has {len(named)} values that name an image ({', '.join(texts)}); expected one, 'image'"
    )


def _file_of(data: dict[str, Any], folder: Folder, path: Path, where: str) -> Path | None:
    """The image of a task. Label Studio puts eight digits before the name of an uploaded file."""
    address = urlparse(_reference(data, where))
    name = unquote(parse_qs(address.query).get("d", [address.path])[0])
    original = re.sub(r"^[0-9a-f]{8}-", "", Path(name.replace("\\", "/")).name)
    return folder.find(name.lstrip("/"), path.parent) or folder.find(original, path.parent)


def _add_objects(entries: Entries, file: Path, results: list[Any], where: str) -> None:
    sizes = {(r["original_height"], r["original_width"]) for r in results if "original_height" in r}
    if len(sizes) > 1:
        raise UserError(
            f"{where}: its image has several sizes, {sorted(sizes)} (height, width): export again"
        )
    image = entries.image(file, sizes.pop() if sizes else None)
    for place, result in enumerate(results):
        value = result.get("value") or {}
        with readable(f"{where}: result {place}"):
            outline = _outline(value, image.size)
        labels: list[Any] = next((value[key] for key in value if key.endswith("labels")), [])
        if outline is None:
            entries.leave_out(image, f"{result.get('type')}, which has no area")
        elif len(labels) == 1:
            entries.add(image, str(labels[0]), outline)
        elif labels:
            names = ", ".join(map(str, labels))
            raise UserError(f"{where}: result {place} has the labels {names}; give it one")
        elif not any(other is not result and other.get("id") == result.get("id") for other in results):
            entries.leave_out(image, "a region without a label")


def _outline(value: dict[str, Any], size: Size) -> Outline | None:
    """The outline of a result in percent of the image; None for results without area: points, texts, choices."""
    height, width = size
    if "rle" in value:
        numbers = unpacked(bytes(value["rle"]))
        return Outline.pixels(numbers.reshape(height, width, 4)[..., 3], size)
    if "points" in value and value.get("closed", True):
        return Outline.polygon([(x * width / 100, y * height / 100) for x, y in value["points"]])
    if not {"radiusX", "height"} & set(value):
        return None
    x, y, turn = value["x"] * width / 100, value["y"] * height / 100, value.get("rotation", 0)
    if "radiusX" in value:
        rx, ry = value["radiusX"] * width / 100, value["radiusY"] * height / 100
        return Outline.ellipse(x, y, rx, ry, size, turn)
    box = Outline.rectangle(x, y, x + value["width"] * width / 100, y + value["height"] * height / 100)
    return box.turned(turn, x, y)


def unpacked(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode Label Studio's run lengths (the format of @thi.ng/rle-pack) to values of eight bits.

    The data are a header and runs. The header has the number of values (32 bits), the number of bits of a value minus
    one (5), and four lengths minus one (4 each). A run starts with a flag bit and two bits that choose one of the four
    lengths. That many bits contain its number of values minus one. If the flag is 1, one repeated value follows, else
    all values.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    place = 0

    def read(length: int, count: int = 1) -> npt.NDArray[np.int64]:
        nonlocal place
        piece = bits[place : place + length * count].reshape(count, length).astype(np.int64)
        place += length * count
        return piece @ (1 << np.arange(length)[::-1])

    total, word = int(read(32)[0]), int(read(5)[0]) + 1
    lengths = [int(read(4)[0]) + 1 for _ in range(4)]
    out = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated = read(1)[0]
        count = int(read(lengths[int(read(2)[0])])[0]) + 1
        out[done : done + count] = read(word) if repeated else read(word, count)
        done += count
    return out
