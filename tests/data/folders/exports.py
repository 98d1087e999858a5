"""Writes a data set of two COCO jsons as the exports of other programs, for tests and to try `data=folder`.

python -m tests.data.folders.exports FOLDER OUT: FOLDER has train.json, val.json, train/ and val/; OUT gets roboflow/,
yolo/ and voc/. The images are links.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Content = dict[str, Any]
Writer = Callable[[Content, Path, str, Path], None]


def roboflow(content: Content, images: Path, part: str, out: Path) -> None:
    """train/, valid/ with _annotations.coco.json, the project's name as class 0, and images renamed as by Roboflow."""
    folder = out / {"val": "valid"}.get(part, part)
    folder.mkdir(parents=True)
    project = {"id": 0, "name": "facades", "supercategory": "none"}
    categories = [{**c, "supercategory": "facades"} for c in content["categories"]]
    renamed = []
    for image in content["images"]:
        path = images / image["file_name"]
        name = f"{path.stem}_jpg.rf.{image['id']:032x}{path.suffix}"
        (folder / name).symlink_to(path.resolve())
        renamed.append({**image, "file_name": name, "license": 1, "date_captured": ""})
    written = {**content, "info": {}, "licenses": [], "images": renamed, "categories": [project, *categories]}
    (folder / "_annotations.coco.json").write_text(json.dumps(written))


def yolo(content: Content, images: Path, part: str, out: Path) -> None:
    """data.yaml, train/images, train/labels, valid/images ... as Roboflow writes them; outlines alone."""
    folder = {"val": "valid"}.get(part, part)
    for kind in ("images", "labels"):
        (out / folder / kind).mkdir(parents=True)
    numbers = {c["id"]: place for place, c in enumerate(content["categories"])}
    lines: dict[int, list[str]] = {image["id"]: [] for image in content["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for entry in content["annotations"]:
        (polygon,) = entry["segmentation"]
        shares = [value / sizes[entry["image_id"]][k % 2] for k, value in enumerate(polygon)]
        lines[entry["image_id"]].append(" ".join([str(numbers[entry["category_id"]]), *map(repr, shares)]))
    for image in content["images"]:
        path = images / image["file_name"]
        (out / folder / "images" / path.name).symlink_to(path.resolve())
        (out / folder / "labels" / f"{path.stem}.txt").write_text("\n".join(lines[image["id"]]))
    names = json.dumps([c["name"] for c in content["categories"]])
    parts = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    (out / "data.yaml").write_text(f"{parts}nc: {len(numbers)}\nnames: {names}\n")


def voc(content: Content, images: Path, part: str, out: Path) -> None:
    """An xml next to each image: boxes, 1-based, not rounded. VOC has none below a pixel."""
    folder = out / part
    folder.mkdir(parents=True)
    names = {c["id"]: c["name"] for c in content["categories"]}
    objects: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        objects[entry["image_id"]].append(entry)
    for image in content["images"]:
        path = images / image["file_name"]
        (folder / path.name).symlink_to(path.resolve())
        body = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        for entry in objects[image["id"]]:
            x, y, w, h = entry["bbox"]
            if min(w, h) >= 1:
                corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
                box = "".join(f"<{key}>{value!r}</{key}>" for key, value in corners.items())
                body += f"<object><name>{escape(names[entry['category_id']])}</name><bndbox>{box}</bndbox></object>"
        (folder / f"{path.stem}.xml").write_text(
            f"<annotation><filename>{path.name}</filename>{body}</annotation>"
        )


def write_all(source: Path, out: Path) -> None:
    writers: dict[str, Writer] = {"roboflow": roboflow, "yolo": yolo, "voc": voc}
    for name, writer in writers.items():
        for part in ("train", "val"):
            writer(json.loads((source / f"{part}.json").read_text()), source / part, part, out / name)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), Path(sys.argv[2]))
