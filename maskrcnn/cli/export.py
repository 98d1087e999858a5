"""Export a checkpoint as ONNX, torch.export or safetensors.

Usage: maskrcnn export checkpoint=FILE out=FILE [format=onnx|torch_export|safetensors] [key=value ...]

Examples:
  maskrcnn export checkpoint=runs/a/best.pt out=model.onnx
  maskrcnn export checkpoint=runs/a/best.pt format=torch_export out=model.pt2
  maskrcnn export checkpoint=runs/a/best.pt out=model.onnx model.box_head.score_threshold=0.3
  maskrcnn export checkpoint=runs/a/best.pt format=safetensors          writes runs/a/best.safetensors

A safetensors file has the weights and the config. It can replace the checkpoint, except to resume a run.

The other formats have a graph for one image of any size. Its inputs are pixels, uint8 [1, 3, H, W], and size, the
height and width before padding. It returns boxes, scores, labels, valid, and mask probabilities within the boxes.
FILE.json has the details. ONNX files have standard operators only (opset 18; RoiAlign, MaxRoiPool, NonMaxSuppression)
and run in onnxruntime. Files of torch.export need torch, torchvision and maskrcnn_ops imported where they are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from maskrcnn.config import compose as configs
from maskrcnn.console import console
from maskrcnn.errors import Positive, UserError
from maskrcnn.models import hub
from maskrcnn.training.interruption import interruptible

GRAPHS = ("onnx", "torch_export")


@dataclass
class Export(configs.OfCheckpoint):
    """Keys of ``maskrcnn export``.

    Args:
        format: ``onnx``, ``torch_export`` or ``safetensors``.
        out: the file to write. FILE.json next to it describes the inputs and outputs of a graph. None is the
            checkpoint's name with the suffix .safetensors.
        threads: number of CPU threads; None is all cores.
        debug: print tracebacks of errors.
    """

    format: str = "onnx"
    out: str | None = None
    threads: Positive | None = None
    debug: bool = False


def main(arguments: Sequence[str]) -> None:
    """Write the graph with a json that describes its inputs and outputs, or the weights."""
    settings, rest = configs.compose_command("export", arguments, Export)
    if settings.format not in (*GRAPHS, "safetensors"):
        raise UserError(f"format={settings.format}: there are {', '.join(GRAPHS)}, safetensors")
    if settings.checkpoint is None or (settings.out is None and settings.format in GRAPHS):
        raise UserError("give checkpoint=FILE, format=onnx, torch_export or safetensors, and out=FILE")
    if settings.format == "safetensors":
        return _weights(settings.checkpoint, settings.out, rest)
    return _graph(settings, rest)


def _weights(source: str, target: str | None, rest: Sequence[str]) -> None:
    if rest:
        raise UserError(
            f"{rest[0]}: safetensors hold the weights; give other settings where the file is loaded"
        )
    with interruptible():
        from maskrcnn.training import checkpoint

    out = _opened(target or str(hub.local_path(source).with_suffix(hub.SUFFIX)))
    checkpoint.to_safetensors(source, out)
    console.print(f"written: {out} ({out.stat().st_size / 2**20:.1f} MiB)")


def _opened(target: str) -> Path:
    out = Path(target)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out}: its folder cannot be made: {error}") from error
    return out


def _graph(settings: DictConfig, rest: list[str]) -> None:
    with interruptible():  # here, because torch takes seconds: a wrong key is answered at once
        from maskrcnn.config.trained import load_for_prediction
        from maskrcnn.export.program import exportable, save_onnx, save_program
        from maskrcnn.training.distributed import open_device

    open_device("cpu", settings.threads)
    loaded = load_for_prediction(settings.checkpoint, rest, settings.trust_checkpoint)
    out = _opened(settings.out)
    save = save_onnx if settings.format == "onnx" else save_program
    save(loaded.model, out, loaded.size_divisor)
    transform = loaded.transform
    description = {
        "format": settings.format,
        "inputs": {
            "pixels": f"uint8 [1, 3, H, W], RGB, H and W multiples of {loaded.size_divisor} from 96 on, "
            "zeros right and below",
            "size": "float32 [1, 2], (height, width) of the image before padding",
        },
        "outputs": exportable(loaded.model).names,
        "size_divisor": loaded.size_divisor,
        "short_side": transform.short_side,
        "max_size": transform.max_size,
        "categories": loaded.categories,
    }
    description_file = out.with_name(f"{out.name}.json")
    description_file.write_text(json.dumps(description, indent=1))
    console.print(f"written: {out} ({out.stat().st_size / 2**20:.1f} MiB), {description_file}")
