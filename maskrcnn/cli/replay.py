"""Repeat a training step that failed.

Usage: maskrcnn replay step=runs/a/failed_step_00000012.pt [device=cpu]

Prints the losses of the run and of the repetition, and the first module whose output is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import OmegaConf

from maskrcnn.config import compose as configs
from maskrcnn.config.backbone import drop_pretrained
from maskrcnn.console import console
from maskrcnn.errors import Positive, UserError
from maskrcnn.training.interruption import interruptible


@dataclass
class Replay:
    """Keys of ``maskrcnn replay``.

    Args:
        step: a failed_step_*.pt of a run directory.
        trust_checkpoint: also build parts outside this project, for example your own operators.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: number of CPU threads; None is all cores.
        debug: print tracebacks of errors.
    """

    step: str | None = None
    trust_checkpoint: bool = False
    device: str = "auto"
    threads: Positive | None = None
    debug: bool = False


def main(arguments: Sequence[str]) -> None:
    """Print the losses of the original step and of the repetition, and the first non-finite output."""
    settings = configs.compose_config("replay", arguments, Replay)
    if settings.step is None:
        raise UserError("give step=FILE, a failed_step_*.pt of a run directory")
    with interruptible():  # here, because torch takes seconds: a wrong key is answered at once
        from maskrcnn.config.build import build_model
        from maskrcnn.training.distributed import open_device
        from maskrcnn.training.failure import load_failed_step, replay

    content = load_failed_step(settings.step)
    config = OmegaConf.create(content["config"])
    if not settings.trust_checkpoint:
        configs.check_trusted(config, settings.step)
    drop_pretrained(config)
    device = open_device(settings.device, settings.threads)
    model = build_model(config)
    model.load_state_dict(content["model"])
    parts = content["batch"]
    images = [image_id for part in parts for image_id in part.image_ids]
    console.print(f"step {content['step']}, images {images}")
    found = replay(model.to(device), parts, device, config.precision)
    for name, value in found.losses.items():
        console.print(f"  {name}: {content['losses'][name]:.6g} in the run, {value:.6g} now")
    if found.module is not None:
        console.print(f"the first module with an output that is not finite: {found.module}")
    if found.gradients:
        listed = f"{', '.join(found.gradients[:5])}, {len(found.gradients)} in all"
        console.print(f"gradients that are not finite, from the losses backwards: {listed}")
    bad = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if bad:
        console.print(f"weights that are not finite before the step: {', '.join(bad[:5])}, {len(bad)} in all")
