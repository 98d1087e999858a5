"""The pages of docs/: every command in them runs, code in them is the code, links lead somewhere."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.ablation.grid import read_table
from maskrcnn.cli import ablate, train
from maskrcnn.cli.entry import commands as helps
from tests.conftest import TINY_MODEL
from tests.docs.commands import OTHERS, compose, configs_of_page, of_help, of_page, parts

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
# A page's commands, once those of the pages before it have left their files.
IN_ORDER = ["quickstart", "your_data", "deploy", "operator", "tables"]
REPLACED = ("model", "init", "threads")


def commands(page: Path) -> list[str]:
    return of_page(page.read_text())


def shortened(arguments: Sequence[str], data: Path) -> list[str]:
    """A run of ``tools/train.py`` in seconds."""
    resets = "init.reset_heads=true" in arguments
    kept = [a for a in arguments if a.partition("=")[0] not in REPLACED]
    model = [a for a in arguments if a.startswith("model=r18")]
    own = [
        f"data.root={data}",
        "data.source.num_train=8",
        "data.source.num_val=4",
        "data.source.image_size=96",
    ]
    short = ["schedule.steps=2", "schedule.batch_size=2", "data.num_workers=0", "threads=1", "log.every=1"]
    init = [a for a in arguments if a.startswith("init=runs/")] if resets else []
    # A single map has the channels that the backbone gives it.
    tiny = [a for a in TINY_MODEL if not (model and a.startswith("model.pyramid."))]
    if "model.mask_head=null" in arguments:
        tiny = [a for a in tiny if not a.startswith("model.mask_head.")]
    return [
        *kept,
        *model,
        *init,
        *short,
        *tiny,
        *([] if {"data=custom", "data=folder", "data=voc"} & set(arguments) else own),
    ]


def test_pages_are_all_in_the_navigation_and_links_lead_somewhere() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f": {page.name}\n" in navigation
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_worked_example_is_the_code() -> None:
    assert (ROOT / "examples" / "prroipool.py").read_text() in (ROOT / "docs" / "operator.md").read_text()
    assert (ROOT / "configs/roi_op/prroipool.yaml").read_text().split("\n", 1)[1] in (
        ROOT / "docs" / "operator.md"
    ).read_text()


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem
)
def test_every_command_of_a_page_composes(page: Path) -> None:
    for command in commands(page):
        found = parts(command)
        assert found is not None or command.startswith(OTHERS), command
        if found is not None:
            compose(*found)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_the_commands_in_a_pages_text_compose(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `...`, not in a block: `tools/train.py model=r50_fpn`, `maskrcnn eval checkpoint=FILE`."""
    for name, text in configs_of_page(page.read_text()).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
        found = parts(code)
        if found is not None and found[1]:
            compose(*found)


@pytest.mark.parametrize("name", sorted(helps()))
def test_the_examples_of_a_help_text_compose(name: str) -> None:
    examples = of_help(helps()[name])
    assert examples or name in ("replay", "doctor", "check-data", "prepare-data")
    for command in examples:
        found = parts(command)
        assert found is not None
        compose(*found)


def test_the_findings_name_tables_that_were_run() -> None:
    text = (ROOT / "docs" / "findings.md").read_text()
    folders = re.findall(r"`results/([\w-]+)`", text)
    assert len(folders) >= 6
    for folder in folders:
        read_table(ROOT / "configs" / "tables", *folder.rsplit("-", 1))
        assert list((ROOT / "results" / folder / "records").glob("*.json"))
    named = [
        dict(word.split("=") for word in line.split())
        for line in re.findall(r"tools/ablate\.py ([^`]+)`", text)
    ]
    assert len(named) >= 4
    for arguments in named:
        folder = f"{arguments.get('table', 'strides')}-{arguments.get('data', 'shapes')}"
        assert folder in folders


def _as_voc(content: dict[str, Any], images: Path, folder: Path, split: str) -> None:
    """Add a split to a folder of Pascal VOC's layout, boxes alone."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = {category["id"]: category["name"] for category in content["categories"]}
    stems = []
    for image in content["images"]:
        stem = f"{split}_{Path(image['file_name']).stem}"
        shutil.copy(images / image["file_name"], folder / "JPEGImages" / f"{stem}.png")
        boxes = ""
        for entry in (a for a in content["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = entry["bbox"]
            corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
            box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
            boxes += f"<object><name>{names[entry['category_id']]}</name><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        xml = f"<annotation><filename>{stem}.png</filename>{size}{boxes}</annotation>"
        (folder / "Annotations" / f"{stem}.xml").write_text(xml)
        stems.append(stem)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the data that the pages speak of."""
    folder = tmp_path_factory.mktemp("place")
    drawn = folder / "drawn"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.main([*shortened([], drawn), "run_dir=first"])
    source = next(path for path in drawn.rglob("train") if path.is_dir()).parent
    for split in ("train", "val"):
        shutil.copytree(source / split / "images", folder / split)
        content = json.loads((source / split / "annotations.json").read_text())
        for image in content["images"]:
            image["file_name"] = Path(image["file_name"]).name
        (folder / f"{split}.json").write_text(json.dumps(content))
        export = folder / "export" / {"val": "valid"}.get(split, split)
        shutil.copytree(folder / split, export)
        (export / "_annotations.coco.json").write_text(json.dumps(content))
        _as_voc(content, folder / split, folder / "labelled", split)
    (folder / "photos").mkdir()
    for image in list((folder / "val").iterdir())[:2]:
        from cv2 import imread, imwrite

        imwrite(str(folder / "photos" / f"{image.stem}.jpg"), imread(str(image)))
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", IN_ORDER)
def test_the_pages_commands_run(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(ROOT))
    for command in commands(ROOT / "docs" / f"{page}.md"):
        found = parts(command)
        assert found is not None
        tool, arguments = found
        if tool == "ablate":
            # tests/cli/test_ablate.py runs whole tables; here each run's config is composed.
            ablate.plan(arguments)
            continue
        if tool == "train":
            arguments = shortened(arguments, place / "drawn")
        if tool in ("eval", "predict") and "threads=1" not in arguments:
            arguments = [*arguments, "threads=1"]
        importlib.import_module(f"maskrcnn.cli.{tool}").main(arguments)
    made = {
        "quickstart": "runs/first_scored/details.json",
        "your_data": "out/predictions.json",
        "deploy": "model.onnx",
    }
    if page in made:
        assert (place / made[page]).exists()


@pytest.mark.slow
def test_the_readmes_python_trains_without_hydra(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len([line for line in code.splitlines() if line]) <= 12
    check = "import sys; assert not {'hydra', 'omegaconf'} & set(sys.modules); print(found.boxes.shape[1])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "ops")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4"
    assert (tmp_path / "runs" / "squares" / "metrics.json").exists()


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "RoIAlign" in (tmp_path / "index.html").read_text()
    assert "<canvas" in (tmp_path / "explorer.html").read_text()
