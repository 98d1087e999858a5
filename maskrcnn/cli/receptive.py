"""Measure the effective receptive fields of a backbone's feature cells.

Usage: maskrcnn receptive [model=NAME] [checkpoint=FILE] [key=value ...]

Examples:
  maskrcnn receptive model=r18_c4_fpnhead                       random weights
  maskrcnn receptive model=lite0_c5 model.backbone.weights=imagenet
  maskrcnn receptive checkpoint=runs/a/best.pt run_dir=seen     a trained model

For every map, prints the centre of mass of the middle cell's receptive field, relative to the middle of the cell's
block, in cells. Writes run_dir/cells.png with these centres and the positions that the operators assume.
roi_op.offset=measured trains with the measured centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from maskrcnn.config import compose as configs
from maskrcnn.console import console
from maskrcnn.errors import Positive, Seed, UserError
from maskrcnn.training.interruption import interruptible
from maskrcnn.training.session import open_run_dir


@dataclass
class Receptive(configs.OfCheckpoint):
    """Keys of ``maskrcnn receptive``. Every other key is one of ``maskrcnn train``, or of the checkpoint's config.

    Without a checkpoint, the model is the one that the other keys describe.

    Args:
        run_dir: folder of cells.png; None is runs/<date-time>.
        side: side of the square image in pixels, a multiple of 64.
        directions: number of noise images and random directions to average over, two or more.
        seed: seed of the images, directions and random weights.
        debug: print tracebacks of errors.
    """

    run_dir: str | None = None
    side: Positive = 512
    directions: Positive = 16
    seed: Seed = 0
    debug: bool = False


def main(arguments: Sequence[str]) -> None:
    """Measure every map of the backbone, print a table and draw a picture."""
    settings, rest = configs.compose_command("receptive", arguments, Receptive)
    if settings.side % 64 or settings.directions < 2:
        raise UserError("side must be a multiple of 64, and directions at least 2")
    with interruptible():
        config = configs.compose_config("train", rest) if settings.checkpoint is None else None
        import torch  # lazily, because it takes seconds and a wrong key should fail immediately

        from maskrcnn.ablation.explain_plots import draw_cells
        from maskrcnn.config.build import load_trained
        from maskrcnn.models.receptive import receptive_field

    torch.manual_seed(settings.seed)
    backbone: Any
    if config is None:
        _, model, _ = load_trained(settings.checkpoint, rest, settings.trust_checkpoint)
        backbone, title = model.backbone, str(settings.checkpoint)
    else:
        backbone = configs.build(config.model.backbone)
        title = f"{type(backbone).__name__}, weights={Path(str(config.model.backbone.get('weights'))).name}"
    fields = {
        stride: receptive_field(backbone, stride, settings.side, settings.directions, settings.seed)
        for stride in sorted(backbone.channels)
        if settings.side >= 8 * stride
    }
    table = Table(
        "stride", "right", "below", "spread", "offset", title="centre of the receptive field, in cells"
    )
    for stride, field in fields.items():
        shifts = (f"{s:+.3f} ± {e:.3f}" for s, e in zip(field.shift, field.error, strict=True))
        table.add_row(str(stride), *shifts, f"{field.spread:.2f}", f"{field.offset:.3f}")
    console.print(table)
    path = open_run_dir(settings.run_dir) / "cells.png"
    draw_cells(fields, title, path)
    console.print(f"written: {path}")
