"""The plots, the table and the page of ``maskrcnn explain``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from maskrcnn_ops import PRESETS, Switches
from omegaconf import DictConfig
from rich.table import Table
from torch import Tensor

from maskrcnn.ablation import explain_plots as draw
from maskrcnn.ablation.explain import Floats, View, shift_curve, smooth_map, view
from maskrcnn.ablation.explain_model import explain_detection
from maskrcnn.ablation.explorer import ChannelMaps, Start, channel_maps, explorer_page
from maskrcnn.ablation.statistics import signed
from maskrcnn.cli.explain import Box
from maskrcnn.config.build import load_trained
from maskrcnn.config.trained import load_for_prediction
from maskrcnn.console import console
from maskrcnn.data.images import Pixels
from maskrcnn.errors import UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.protocols import RoIOp
from maskrcnn.structures import Images, Proposals
from maskrcnn.training.distributed import open_device
from maskrcnn.training.session import open_run_dir

_OF_FEATURES = "change of the pooled features, % of their spread"


def plots(
    settings: DictConfig,
    image: Pixels | None,
    box: Box,
    size: tuple[int, int],
    operators: Mapping[str, RoIOp],
) -> None:
    """Draw how the operators read the box, print a table and write explain.json.

    Args:
        settings: an `Explain`.
        image: RGB, or None.
        box: pixels of the image.
        size: height and width of the image.
        operators: the operators by name.
    """
    stride, bins = settings.stride, settings.output_size
    cells = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
    views = {name: view(op, box, stride, cells, bins) for name, op in operators.items()}
    run_dir = open_run_dir(settings.run_dir)
    draw.overview(views, operators, bins, image, run_dir / "overview.png")
    draw.bins(views, bins, run_dir / "bins.png")
    weights: dict[str, Any] = {name: seen.weights for name, seen in views.items()}
    np.savez_compressed(run_dir / "weights.npz", **weights)
    shifts = np.linspace(0, 2 * stride, 65)
    maps = smooth_map((cells[0], cells[1] + 4), stride)
    changed = {name: shift_curve(op, maps, box, stride, bins, shifts) for name, op in operators.items()}
    draw.curves(shifts, changed, stride, _OF_FEATURES, run_dir / "shift.png")
    numbers = {name: _numbers(v, operators[name], bins) for name, v in views.items()}
    for name, values in changed.items():
        numbers[name]["largest_change_percent"] = round(float(values.max()), 2)
    if image is not None and settings.checkpoints:
        _model_curves(settings, image, box, run_dir)
    (run_dir / "explain.json").write_text(json.dumps({"box": box, "operators": numbers}, indent=1))
    console.print(_table(box, stride, numbers))


def page(
    settings: DictConfig,
    image: Pixels | None,
    box: Box,
    size: tuple[int, int],
    operators: Mapping[str, RoIOp],
) -> None:
    """Write the interactive page, with a feature channel of every checkpoint. Arguments as for `plots`."""
    family = {name: op for name, op in operators.items() if isinstance(op, Switches)}
    if others := sorted(set(operators) - set(family)):
        raise UserError(
            f"page= shows operators of maskrcnn_ops only, not {', '.join(others)}; remove them from operators="
        )
    maps: list[ChannelMaps] = []
    if image is not None and settings.checkpoints:
        device, models = _models(settings)
        for name, model in models.items():
            maps += channel_maps(name, partial(_features, model, image, device), size)
    html = explorer_page(Start(box, size, settings.stride, settings.output_size, family), image, maps)
    Path(settings.page).parent.mkdir(parents=True, exist_ok=True)
    Path(settings.page).write_text(html, "utf-8")
    console.print(f"wrote {settings.page}; open it in a browser")


def detections(settings: DictConfig, image: Pixels, operator_of: Callable[[str], RoIOp]) -> None:
    """Draw one detection, and print its table, for every checkpoint.

    Args:
        settings: an `Explain`.
        image: RGB.
        operator_of: an operator by its name.
    """
    device = open_device(settings.device, settings.threads)
    run_dir = open_run_dir(settings.run_dir)
    numbers: dict[str, Any] = {}
    for name, path in _named(settings.checkpoints):
        loaded = load_for_prediction(path)
        model = loaded.model.to(device).eval()
        operators = {n: operator_of(n) for n in _forms(model, list(settings.operators))}
        found = explain_detection(
            model, image, loaded.transform, loaded.size_divisor, settings.detection, operators, device
        )
        label = str(loaded.categories[found.label]["name"])
        file = "detection.png" if len(settings.checkpoints) == 1 else f"detection_{len(numbers)}.png"
        draw.detection(found, label, image, run_dir / file)
        numbers[name] = {
            "class": label,
            "score": round(found.score, 4),
            "box": found.trained.box,
            "stride": found.stride,
            "iou_of_moved": found.overlaps(),
        }
        console.print(_moved_table(name, numbers[name]))
    (run_dir / "explain.json").write_text(json.dumps(numbers, indent=1))
    console.print(f"wrote {run_dir}")


def _forms(model: MaskRCNN, names: list[str]) -> list[str]:
    """Names of the operators, or of their position-sensitive forms if the head needs those."""
    head = model.mask_head or model.box_head
    if head is None or not getattr(head.pooler.operator, "position_sensitive", False):
        return names
    return [f"ps_{name}" if f"ps_{name}" in PRESETS else name for name in names]


def _moved_table(name: str, numbers: dict[str, Any]) -> Table:
    title = f"{name}: {numbers['class']} {numbers['score']:.2f}, box moved by half a cell of {numbers['stride']} px"
    table = Table("operator", "IoU of both outputs", title=title, title_justify="left")
    for operator, overlap in numbers["iou_of_moved"].items():
        table.add_row(operator, f"{overlap:.3f}")
    return table


def _numbers(seen: View, operator: RoIOp, output_size: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "lost_percent": round(100 * float(seen.lost.sum()), 2),
        "gained_percent": round(100 * float(seen.gained.sum()), 2),
        "shift_pixels": [round(d, 2) for d in seen.shift],
    }
    read = draw.readings(operator, seen, output_size)
    if read is not None:
        for axis, r in zip("xy", read, strict=True):
            numbers[axis] = {"region": r.region, "bins": r.bins, "points": r.points}
    return numbers


def _table(box: Box, stride: int, numbers: dict[str, dict[str, Any]]) -> Table:
    width, height = ((box[2] - box[0]) / stride, (box[3] - box[1]) / stride)
    title = f"a box of {width:.2f} x {height:.2f} cells of {stride} pixels ({int(width)} x {int(height)} whole ones)"
    table = Table(title=title, title_justify="left")
    for column in ("", "region, cells", "bin, cells", "lost", "gained", "shift, pixels"):
        table.add_column(column, justify="right")
    table.add_column("largest change under shift", justify="right")
    for name, n in numbers.items():
        seen, of_bin = "–", "–"
        if "x" in n:
            w, h = (n[axis]["region"][1] - n[axis]["region"][0] for axis in "xy")
            bins = len(n["x"]["bins"])
            seen, of_bin = f"{w:.2f} x {h:.2f}", f"{w / bins:.2f} x {h / bins:.2f}"
        dx, dy = n["shift_pixels"]
        share = (f"{n[key]:.1f} %" for key in ("lost_percent", "gained_percent", "largest_change_percent"))
        lost, gained, change = share
        table.add_row(name, seen, of_bin, lost, gained, f"{signed(dx)}, {signed(dy)}", change)
    return table


def _models(settings: DictConfig) -> tuple[torch.device, dict[str, MaskRCNN]]:
    """The device, and the models of the checkpoints on it by name."""
    device = open_device(settings.device, settings.threads)
    named = _named(settings.checkpoints)
    return device, {name: load_trained(path)[1].to(device).eval() for name, path in named}


def _named(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Each checkpoint with the name of its folder, or its complete path if folder names are equal."""
    folders = [Path(path).parent.name for path in paths]
    return [(f if folders.count(f) == 1 else path, path) for f, path in zip(folders, paths, strict=True)]


@torch.no_grad()
def _features(model: MaskRCNN, image: Pixels, device: torch.device, shift: int) -> dict[int, Tensor]:
    return model.features(_moved(image, shift, device))


@torch.no_grad()
def _model_curves(settings: DictConfig, image: Pixels, box: Box, run_dir: Path) -> None:
    """Draw how features and masks of trained models change when image and box move together.

    They move right by up to two cells of the coarsest map.
    """
    device, models = _models(settings)
    still = _moved(image, 0, device)
    stride = max(max(s for s in model.features(still) if s <= 32) for model in models.values())
    shifts = np.arange(0, 2 * stride + 1, max(stride // 16, 1)).astype(np.float64)
    by_features, by_masks = {}, {}
    for name, model in models.items():
        pooled, masks = zip(*(_pooled_and_mask(model, image, box, s, device) for s in shifts), strict=True)
        by_features[name] = _change(pooled, relative=True)
        if masks[0] is not None:
            by_masks[name] = _change(masks, relative=False)
    draw.curves(shifts, by_features, stride, _OF_FEATURES, run_dir / "model_features.png")
    if by_masks:
        words = "change of the mask's probabilities, points (root mean square)"
        draw.curves(shifts, by_masks, stride, words, run_dir / "model_masks.png")


@torch.no_grad()
def _pooled_and_mask(
    model: MaskRCNN, image: Pixels, box: Box, shift: float, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    images = _moved(image, int(shift), device)
    boxes = torch.tensor([[[box[0] + shift, box[1], box[2] + shift, box[3]]]], device=device)
    valid = torch.ones(1, 1, dtype=torch.bool, device=device)
    features = model.features(images)
    head = model.mask_head or model.box_head
    if head is None:
        raise UserError("checkpoints= has a proposal network; expected models with a box head or a mask head")
    if model.mask_head is None:
        assert model.box_head is not None
        return head.pooler(model.box_head.pooled_maps(features), boxes, valid), None
    pooled = head.pooler(features, boxes, valid)
    labels = torch.zeros(1, 1, dtype=torch.int64, device=device)
    if model.box_head is not None:
        given = Proposals(boxes, torch.zeros(1, 1, device=device), valid)
        labels = model.box_head.detect(features, given, images).labels[:, :1]
    return pooled, model.mask_head.masks(features, boxes, labels, valid)


def _moved(image: Pixels, shift: int, device: torch.device) -> Images:
    """The image moved right by ``shift`` pixels, on a canvas of one size for all shifts."""
    height, width = image.shape[:2]
    canvas = torch.zeros(1, 3, -(-height // 32) * 32, -(-(width + 96) // 32) * 32, dtype=torch.uint8)
    canvas[0, :, :height, shift : shift + width] = torch.from_numpy(image.copy()).permute(2, 0, 1)
    sizes = torch.tensor([[float(height), float(canvas.shape[-1])]])
    return Images(canvas, sizes).to(device)


def _change(values: Sequence[Tensor], relative: bool) -> Floats:
    unit = values[0].std() if relative else torch.ones(())
    return np.array([float(100 * (v - values[0]).pow(2).mean().sqrt() / unit) for v in values])
