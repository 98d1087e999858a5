"""Draw how the RoI operators read a box.

Usage: maskrcnn explain [box=[x1,y1,x2,y2]] [stride=32] [key=value ...]

Prints how each operator reads the box, and writes into run_dir:
  overview.png    bins and samples, the weight of every cell (from the operator's gradient), area lost and gained
  bins.png        the weights of three bins
  shift.png       the change of the pooled features when image and box move together
  model_*.png     the same for features and masks of the models in checkpoints=
  weights.npz     the weights
  explain.json    the printed numbers

Examples:
  maskrcnn explain                                     the articles' 665x665 box on a map of stride 32
  maskrcnn explain image=photo.jpg box=[120,80,260,300] stride=16
  maskrcnn explain operators=[align,align_legacy,warp,pool] output_size=3 sampling_ratio=1
  maskrcnn explain page=explorer.html                  an interactive page for the browser, instead of the plots
  maskrcnn explain image=photo.jpg box=[120,80,260,300] checkpoints=[a/last.pt,b/last.pt]   also masks of models
  maskrcnn explain image=photo.jpg checkpoints=[runs/a/last.pt] detection=0     one detection of a trained model

detection=N writes detection.png instead. It shows the pooled features and the mask before and after pasting, and the
same with each operator when the box moves by half a cell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from maskrcnn_ops import PRESETS, Switches
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from torch import Tensor

from maskrcnn.ablation import explain_plots as draw
from maskrcnn.ablation.explain import Floats, View, shift_curve, smooth_map, view
from maskrcnn.ablation.explain_model import explain_detection
from maskrcnn.ablation.explorer import ChannelMaps, Start, channel_maps, explorer_page
from maskrcnn.ablation.statistics import signed
from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config.operators import operator_node
from maskrcnn.config.trained import load_for_prediction
from maskrcnn.console import console
from maskrcnn.data.images import Pixels, read_image
from maskrcnn.errors import Positive, UserError
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.protocols import RoIOp
from maskrcnn.structures import Images, Proposals

Box = tuple[float, float, float, float]


@dataclass
class Explain(configs.Common):
    """Keys of ``maskrcnn explain``. The operators' switches can also be set, for example sampling_ratio=1.

    Args:
        box: x1, y1, x2, y2 in pixels of the image.
        image: image file; None is an empty image of ``image_size``.
        image_size: height, width in pixels.
        stride: pixels per cell of the feature map.
        output_size: P, bins per side.
        operators: names of operators, as for ``roi_op=``.
        checkpoints: trained models. Their pooled features and masks are compared when image and box move (needs
            ``image``).
        detection: rank by score, from 0, of a detection of ``checkpoints`` in ``image``. It is drawn with every
            operator, instead of the other plots. The trained weights do not change.
        page: html file to write instead of the plots, with an interactive page for the browser.
    """

    box: list[float] = field(default_factory=lambda: [0.0, 0.0, 665.0, 665.0])
    image: str | None = None
    image_size: list[int] = field(default_factory=lambda: [800, 800])
    stride: Positive = 32
    output_size: Positive = 7
    operators: list[str] = field(default_factory=lambda: ["align", "warp", "pool"])
    checkpoints: list[str] = field(default_factory=list)
    detection: int | None = None
    page: str | None = None


def main(arguments: Sequence[str]) -> None:
    """Draw and print how the operators read the box."""
    own, switches = configs.split(arguments, Explain)
    settings = configs.compose_config("explain", own, Explain)
    image = None if settings.image is None else read_image(settings.image)
    if settings.detection is not None:
        _detections(settings, image, switches)
        return
    height, width = settings.image_size if image is None else image.shape[:2]
    box = _checked_box(list(settings.box), height, width)
    operators = {name: _operator(name, switches) for name in settings.operators}
    if settings.checkpoints and image is None:
        raise UserError("checkpoints= needs an image: give image=FILE")
    if settings.page is not None:
        html = _page(settings, image, box, (height, width), operators)
        Path(settings.page).parent.mkdir(parents=True, exist_ok=True)
        Path(settings.page).write_text(html, "utf-8")
        console.print(f"wrote {settings.page}; open it in a browser")
        return
    size = math.ceil(height / settings.stride), math.ceil(width / settings.stride)
    views = {
        name: view(op, box, settings.stride, size, settings.output_size) for name, op in operators.items()
    }
    run_dir = assembly.open_run_dir(settings.run_dir)
    draw.overview(views, operators, settings.output_size, image, run_dir / "overview.png")
    draw.bins(views, settings.output_size, run_dir / "bins.png")
    weights: dict[str, Any] = {name: seen.weights for name, seen in views.items()}
    np.savez_compressed(run_dir / "weights.npz", **weights)
    shifts = np.linspace(0, 2 * settings.stride, 65)
    maps = smooth_map((size[0], size[1] + 4), settings.stride)
    changed = {
        name: shift_curve(op, maps, box, settings.stride, settings.output_size, shifts)
        for name, op in operators.items()
    }
    words = "change of the pooled features, % of their spread"
    draw.curves(shifts, changed, settings.stride, words, run_dir / "shift.png")
    numbers = {name: _numbers(v, operators[name], settings.output_size) for name, v in views.items()}
    for name, values in changed.items():
        numbers[name]["largest_change_percent"] = round(float(values.max()), 2)
    if image is not None and settings.checkpoints:
        device = assembly.open_device(settings.device, settings.threads)
        _model_curves(list(settings.checkpoints), image, box, run_dir, device)
    (run_dir / "explain.json").write_text(json.dumps({"box": box, "operators": numbers}, indent=1))
    console.print(_table(box, settings.stride, numbers))


def _page(
    settings: DictConfig, image: Pixels | None, box: Box, size: tuple[int, int], operators: dict[str, RoIOp]
) -> str:
    """The interactive page, with a feature channel of every checkpoint."""
    family = {name: op for name, op in operators.items() if isinstance(op, Switches)}
    if len(family) < len(operators):
        others = ", ".join(sorted(set(operators) - set(family)))
        raise UserError(
            f"page= shows operators of maskrcnn_ops only, not {others}; remove them from operators="
        )
    start = Start(box, size, settings.stride, settings.output_size, family)
    if image is None or not settings.checkpoints:
        return explorer_page(start, image)
    maps: list[ChannelMaps] = []
    device = assembly.open_device(settings.device, settings.threads)
    for name, path in _named(list(settings.checkpoints)):
        model = assembly.load_trained(path, [], configs.Train)[1].to(device).eval()
        maps += channel_maps(name, partial(_features, model, image, device), size)
    return explorer_page(start, image, maps)


def _detections(settings: DictConfig, image: Pixels | None, switches: list[str]) -> None:
    """Draw one detection, and print its table, for every checkpoint."""
    if image is None or not settings.checkpoints:
        raise UserError("detection= needs an image and a model: give image=FILE and checkpoints=[FILE]")
    device = assembly.open_device(settings.device, settings.threads)
    run_dir = assembly.open_run_dir(settings.run_dir)
    numbers: dict[str, Any] = {}
    for name, path in _named(list(settings.checkpoints)):
        loaded = load_for_prediction(path)
        model = loaded.model.to(device).eval()
        operators = {n: _operator(n, switches) for n in _forms(model, list(settings.operators))}
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


@torch.no_grad()
def _features(model: MaskRCNN, image: Pixels, device: torch.device, shift: int) -> dict[int, Tensor]:
    return model.features(_moved(image, shift, device))


def _operator(name: str, overrides: list[str]) -> RoIOp:
    try:
        node = operator_node(name)
    except UserError as error:
        raise UserError(f"operators={name}: {error}") from error
    given = OmegaConf.from_dotlist(overrides)
    if unknown := sorted(str(key) for key in given if key not in node):
        raise UserError(
            f"{', '.join(unknown)}: neither a key of tools/explain.py nor a switch of {name}, which has "
            f"{', '.join(str(key) for key in node if not str(key).startswith('_'))}"
        )
    operator: RoIOp = configs.build(OmegaConf.merge(node, given))
    return operator


def _checked_box(box: list[float], height: int, width: int) -> Box:
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise UserError(
            f"box={box} must be x1, y1, x2, y2 in pixels with x1 < x2 and y1 < y2, inside the image of "
            f"{width} x {height} (width x height)"
        )
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2


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
    for column in (
        "",
        "region, cells",
        "bin, cells",
        "lost",
        "gained",
        "shift, pixels",
        "largest change under shift",
    ):
        table.add_column(column, justify="right")
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


@torch.no_grad()
def _model_curves(paths: list[str], image: Pixels, box: Box, run_dir: Path, device: torch.device) -> None:
    """Draw how features and masks of trained models change when image and box move together.

    They move right by up to two cells of the coarsest map.
    """
    models = {
        name: assembly.load_trained(path, [], configs.Train)[1].to(device).eval()
        for name, path in _named(paths)
    }
    still = _moved(image, 0, device)
    stride = max(max(s for s in model.features(still) if s <= 32) for model in models.values())
    shifts = np.arange(0, 2 * stride + 1, max(stride // 16, 1)).astype(np.float64)
    by_features, by_masks = {}, {}
    for name, model in models.items():
        pooled, masks = zip(*(_pooled_and_mask(model, image, box, s, device) for s in shifts), strict=True)
        by_features[name] = _change(pooled, relative=True)
        if masks[0] is not None:
            by_masks[name] = _change(masks, relative=False)
    words = "change of the pooled features, % of their spread"
    draw.curves(shifts, by_features, stride, words, run_dir / "model_features.png")
    if by_masks:
        words = "change of the mask's probabilities, points (root mean square)"
        draw.curves(shifts, by_masks, stride, words, run_dir / "model_masks.png")


def _named(paths: list[str]) -> list[tuple[str, str]]:
    """Each checkpoint with the name of its folder, or its complete path if folder names are equal."""
    folders = [Path(path).parent.name for path in paths]
    return [(f if folders.count(f) == 1 else path, path) for f, path in zip(folders, paths, strict=True)]


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
