"""Detect objects in images, videos or a camera.

Usage: maskrcnn predict checkpoint=FILE input=<file|folder|glob|video|camera> [key=value ...]

Examples:
  maskrcnn predict checkpoint=runs/a/best.pt input=photo.jpg
  maskrcnn predict checkpoint=runs/a/best.pt 'input=photos/*.png' run_dir=out score_threshold=0.7 masks=true
  maskrcnn predict checkpoint=runs/a/best.pt input=clip.mp4 batch_size=8
  maskrcnn predict checkpoint=runs/a/best.pt input=0 max_frames=300          the first camera
  maskrcnn predict checkpoint=runs/a/best.pt input=aerial.tif tile=640 overlap=0.2     a large image, in windows
  maskrcnn predict checkpoint=runs/a/best.pt input=photos flip=true 'scales=[0.8,1.0,1.2]'

Writes into run_dir the images (or the video) with the detections drawn onto them, predictions.json (COCO results with
file names) and annotations.json (a COCO data set that annotation programs open). masks=true also writes one PNG per
mask. Memory does not grow with the number of images. max_size limits the size of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import tee
from typing import TYPE_CHECKING

from rich.progress import track

from maskrcnn.config import compose as configs
from maskrcnn.console import console
from maskrcnn.errors import Fraction, Positive, UserError
from maskrcnn.prediction.inputs import Stills, Video, open_input
from maskrcnn.training.interruption import interruptible
from maskrcnn.training.session import open_run_dir

if TYPE_CHECKING:  # they import torch
    from maskrcnn.prediction.outputs import Outputs
    from maskrcnn.prediction.predictor import Predictor


@dataclass
class Predict(configs.Common, configs.OfCheckpoint):
    """Keys of ``maskrcnn predict``.

    Args:
        input: an image, a folder, a glob (``photos/*.jpg``), a video, or a camera's number (0).
        recursive: also read the images in subfolders.
        score_threshold: smallest score to draw. The json has all detections of the model.
        batch_size: largest number of images per batch.
        max_size: largest side of the network's input in pixels; None is no limit.
        tile: side in pixels of the overlapping windows that large images are cut into; None does not cut.
        overlap: smallest overlap of neighbouring windows, relative to their side.
        flip: also detect in the horizontally flipped image (test-time augmentation).
        scales: factors of the image's size to detect at, for example [0.75, 1.0, 1.25].
        polygons: write the masks of annotations.json as polygons, for programs that cannot read run-length encoding.
        masks: also write one PNG per mask, masks/<image>/<number>_<class>.png.
        max_frames: of a video or camera; None is to the end, or until Ctrl-C.
    """

    input: str | int | None = None
    recursive: bool = False
    score_threshold: float = 0.5
    batch_size: int = 4
    max_size: int | None = 2048
    tile: Positive | None = None
    overlap: Fraction = 0.2
    flip: bool = False
    scales: list[float] = field(default_factory=lambda: [1.0])
    polygons: bool = False
    masks: bool = False
    max_frames: int | None = None


def main(arguments: Sequence[str]) -> None:
    """Detect objects in ``input``, and write drawings and json to the run directory."""
    settings, rest = configs.compose_command("predict", arguments, Predict)
    if settings.checkpoint is None or settings.input is None:
        raise UserError("give checkpoint=FILE and input=<file|folder|glob|video|camera number>")
    source = open_input(str(settings.input), settings.max_frames, settings.recursive)
    if isinstance(source, Stills) and source.left_out:
        console.print(f"input={settings.input}: {source.left_out}", style="yellow")
    with interruptible():  # here, because torch takes seconds: a wrong key is answered at once
        from maskrcnn.prediction.outputs import Outputs
        from maskrcnn.prediction.predictor import Predictor
        from maskrcnn.prediction.tiles import Tiles
        from maskrcnn.prediction.tta import Augmentation
        from maskrcnn.training.distributed import open_device

    augmentation = Augmentation(
        [float(scale) for scale in settings.scales], settings.flip, max_size=settings.max_size
    )
    predictor = Predictor(
        settings.checkpoint,
        device=open_device(settings.device, settings.threads),
        batch_size=settings.batch_size,
        max_size=settings.max_size,
        augmentation=augmentation if settings.flip or augmentation.scales != [1.0] else None,
        overrides=rest,
        trust_checkpoint=settings.trust_checkpoint,
        tiles=None if settings.tile is None else Tiles(settings.tile, settings.overlap),
    )
    run_dir = open_run_dir(settings.run_dir)
    if source.folder is not None and run_dir.resolve() == source.folder.resolve():
        raise UserError(
            f"run_dir={run_dir} is where the input lies, which would be written over: give another"
        )
    video = source if isinstance(source, Video) else None
    with Outputs(
        run_dir,
        predictor.categories,
        settings.score_threshold,
        settings.masks,
        None if video is None else video.rate,
        settings.polygons,
    ) as outputs:
        live = video is not None and video.live
        with suppress(*([KeyboardInterrupt] if live else [])):  # Ctrl-C stops a camera
            _detect(source, predictor, outputs)
    console.print(f"{len(outputs.images)} images, {outputs.num_detections} detections: {run_dir}")


def _detect(source: Stills | Video, predictor: Predictor, outputs: Outputs) -> None:
    frames, origins = tee(source)  # images on their way through the predictor keep their origins
    found = predictor.stream(frame.image for frame in frames)
    total = source.total if isinstance(source, Video) else len(source)
    stream = track(found, "predicting", total, console=console, disable=not console.is_terminal)
    for (_, detections), frame in zip(stream, origins, strict=False):
        outputs.add(frame, detections)
