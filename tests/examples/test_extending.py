"""The examples of docs/extending.md: each is on the page as it is, works, and does what it says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from examples.boxes_csv import BoxesCsv
from examples.dice import Dice
from examples.instance_masks import Folder, Folders
from examples.mask_iou import mask_iou
from examples.nearest import Nearest, nearest
from examples.patches import Patches
from examples.posterise import Posterise
from maskrcnn.cli import train
from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config.data import open_data
from maskrcnn.data.augmentations import Augmentation
from maskrcnn.data.folders.folder import Format
from maskrcnn.data.folders.source import FORMATS, FolderSource
from maskrcnn.data.transforms import Transform
from maskrcnn.models import mask_rcnn
from maskrcnn.models.protocols import Backbone, MaskLoss, RoIOp
from maskrcnn.training import checkpoint
from tests.conftest import TINY_MODEL
from tests.data.test_transforms import example_of
from tests.docs.commands import configs_of_page
from tests.models.batches import random_images, random_targets

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = [
    "patches.py",
    "nearest.cpp",
    "nearest.py",
    "dice.py",
    "boxes_csv.py",
    "instance_masks.py",
    "posterise.py",
    "mask_iou.py",
]


@pytest.mark.parametrize("name", FILES)
def test_the_page_has_the_file(name: str) -> None:
    assert (ROOT / "examples" / name).read_text() in PAGE


def test_the_parts_fit_their_protocols() -> None:
    assert isinstance(Patches(), Backbone)
    assert isinstance(Nearest(), RoIOp)
    assert isinstance(Dice(), MaskLoss)
    assert isinstance(Posterise(), Augmentation)
    assert isinstance(BoxesCsv(), Format)


def test_patches_is_a_backbone_in_python_and_in_a_config() -> None:
    torch.manual_seed(0)
    backbone = Patches(width=8)
    model = mask_rcnn(backbone, num_classes=3, small=True)
    losses = model.losses(random_images(1, 64), random_targets(1, 64))
    sum(loss.total for loss in losses.values()).backward()
    # The finest map by hand: patch (2, 3) of the image, its pixels times the weights.
    pixels, layer = torch.rand(1, 3, 64, 64), backbone.layers[0]
    patch = torch.einsum("chw,ochw->o", pixels[0, :, 8:12, 12:16], layer.weight) + layer.bias
    torch.testing.assert_close(backbone(pixels)[4][0, :, 2, 3], patch.clamp(min=0))
    config = configs.compose_config("train", [*BACKBONE, "num_classes=3"])
    assert isinstance(assembly.build_model(config).backbone, Patches)


BACKBONE = ["model=patches"]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has the page's configs, next to the examples."""
    for name, text in configs_of_page(PAGE).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("c++") is None, reason="the example's kernel needs a C++ compiler")
def test_nearest_reads_the_cells_that_a_loop_reads() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 9, 11, generator=generator)
    boxes = torch.tensor([[0.2, 1.7, 6.1, 8.3], [-4.0, -4.0, 2.0, 30.0]])
    expected = np.zeros((2, 3, 4, 4), np.float32)
    for r, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for p in range(4):
            for q in range(4):
                y, x = y1 + (p + 0.5) * (y2 - y1) / 4, x1 + (q + 0.5) * (x2 - x1) / 4
                expected[r, :, p, q] = image[:, min(max(int(y), 0), 8), min(max(int(x), 0), 10)]
    np.testing.assert_array_equal(nearest(image, boxes, 4)[0].numpy(), expected)
    # The gradient of the sum counts how often each cell was read.
    image.requires_grad_()
    out, index = nearest(image, boxes, 4)
    out.sum().backward()
    counts = torch.bincount(index.flatten(), minlength=99).float().view(9, 11)
    assert torch.equal(image.grad, counts.expand(3, -1, -1))  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("c++") is None, reason="the example's kernel needs a C++ compiler")
def test_nearest_is_an_operator_of_a_model() -> None:
    config = configs.compose_config("train", ["roi_op=nearest", "model=r18_c5", "num_classes=3"])
    model = assembly.build_model(config)
    losses = model.losses(random_images(1, 64), random_targets(1, 64))
    sum(loss.total for loss in losses.values()).backward()
    assert next(model.backbone.parameters()).grad.abs().sum() > 0  # type: ignore[union-attr]


def test_dice_is_one_minus_the_overlap() -> None:
    logits = torch.tensor([[[[9.0, 9.0], [-9.0, -9.0]]], [[[0.0, 0.0], [0.0, 0.0]]]]).expand(2, 3, 2, 2)
    masks = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    labels, both = torch.tensor([2, 0]), torch.tensor([True, True])
    # Region 0 is right. In region 1 every cell has probability 1/2: 2 * 0.5 / (4 * 0.25 + 1) = 1/2.
    assert Dice()(logits, masks, labels, both) / 4 == pytest.approx(0.5, abs=1e-3)
    assert Dice()(logits, masks, labels, torch.tensor([True, False])) / 4 == pytest.approx(0.0, abs=1e-3)


def test_dice_is_the_loss_of_a_config() -> None:
    config = configs.compose_config("train", ["model=dice", "num_classes=3"])
    model = assembly.build_model(config)
    losses = model.losses(random_images(1, 64), random_targets(1, 64))
    assert 0 < losses["mask"].total / losses["mask"].count < 1


def folder_of_masks(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number in range(2):
            ids = np.zeros((64, 96), np.uint8)
            ids[10:30, 20:50], ids[20:60, 60:90] = 1, 7
            image = rng.integers(0, 256, (64, 96, 3), np.uint8)
            cv2.imwrite(str(root / split / "images" / f"{number}.png"), image)
            cv2.imwrite(str(root / split / "masks" / f"{number}.png"), ids)
    return root


def test_instance_masks_are_read(tmp_path: Path) -> None:
    folder_of_masks(tmp_path / "data")
    image, target = Folder(str(tmp_path / "data" / "train"))[1]
    assert image.shape == (3, 64, 96)
    assert target["boxes"].tolist() == [[20, 10, 50, 30], [60, 20, 90, 60]]
    assert target["masks"].sum((1, 2)).tolist() == [20 * 30, 40 * 30]
    example = Folders(str(tmp_path / "data")).val().read(0)
    assert [mask.full(64, 96).sum() for mask in example.masks if mask is not None] == [600, 1200]


def test_boxes_of_a_csv_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "annotations.csv").write_text("a.png,nut,2,3,12,13\na.png,bolt,20,0,30,5\n")
    formats = {**FORMATS, "boxes_csv": BoxesCsv()}
    dataset = FolderSource(str(tmp_path), formats=formats, val_share=0).train()
    assert dataset.read(0).boxes.tolist() == [[2, 3, 12, 13], [20, 0, 30, 5]]
    assert [dataset.categories[label]["name"] for label in dataset.read(0).labels] == ["nut", "bolt"]
    for name, text in configs_of_page(PAGE).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    config = configs.compose_config("train", ["data=boxes_csv", f"data.root={tmp_path}", "data.val_share=0"])
    assert [*FORMATS, "boxes_csv"] == list(config.data.formats)
    assert open_data(config, "train").report[0].endswith("is read as boxes as csv")


@pytest.mark.slow
def test_a_run_with_the_pages_data_format_and_augmentation(tmp_path: Path) -> None:
    folder_of_masks(tmp_path / "data")
    short = ["schedule.steps=2", "schedule.batch_size=2", "data.num_workers=0", "threads=1", "run_dir=run"]
    own = ["data=instance_masks", f"data.root={tmp_path / 'data'}"]
    train.main([*own, *short, *TINY_MODEL])
    config = checkpoint.load_model(tmp_path / "run" / "best.pt")["config"]
    assert config["data"]["source"]["_target_"] == "examples.instance_masks.Folders"
    own = {"_target_": "examples.posterise.Posterise", "least": 3}
    assert config["data"]["train_transform"]["augmentations"] == ["light", own]


def test_posterise_keeps_the_upper_bits() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    example = replace(example_of([np.ones((16, 16), np.uint8)]), image=image)
    augmented = Transform(augmentations=[Posterise(least=3)]).augmented(example, np.random.default_rng(1))
    out = augmented.image
    assert augmented.boxes is example.boxes
    levels = np.unique(out)
    assert len(levels) in {2**bits for bits in range(3, 9)}
    assert np.array_equal(levels, np.arange(0, 256, 256 // len(levels)))
    assert np.abs(image.astype(int) - out).max() < 256 // len(levels)


def test_mask_iou_is_the_mean_of_the_best() -> None:
    def rle(columns: int) -> dict[str, object]:
        mask = np.zeros((4, 8), np.uint8, order="F")
        mask[:, :columns] = 1
        return coco_mask.encode(mask)

    truth = {"annotations": [{"image_id": 1, "category_id": c, "segmentation": rle(4)} for c in (1, 2)]}
    results = [{"image_id": 1, "category_id": 1, "segmentation": rle(columns)} for columns in (1, 2, 8)]
    assert mask_iou(truth, results) == pytest.approx(
        (0.5 + 0.0) / 2
    )  # half of each: 2 of 4 columns, or 4 of 8
