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

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from maskrcnn.config import compose as configs
from maskrcnn.config.files import operator_node
from maskrcnn.data.images import read_image
from maskrcnn.errors import Positive, UserError
from maskrcnn.training.interruption import interruptible

if TYPE_CHECKING:  # it imports torch, which takes seconds: a wrong key is refused before
    from maskrcnn.models.protocols import RoIOp

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
    settings, switches = configs.compose_command("explain", arguments, Explain)
    nodes = {name: _node(name, switches) for name in settings.operators}
    image = None if settings.image is None else read_image(settings.image)
    if settings.detection is not None and (image is None or not settings.checkpoints):
        raise UserError("detection= needs an image and a model: give image=FILE and checkpoints=[FILE]")
    if settings.checkpoints and image is None:
        raise UserError("checkpoints= needs an image: give image=FILE")
    height, width = settings.image_size if image is None else image.shape[:2]
    box = None if settings.detection is not None else _checked_box(list(settings.box), height, width)
    with interruptible():
        from maskrcnn.cli import explain_run

    if box is None:
        assert image is not None
        explain_run.detections(settings, image, lambda name: _operator(name, switches))
        return
    operators = {name: configs.build(node) for name, node in nodes.items()}
    if settings.page is not None:
        explain_run.page(settings, image, box, (height, width), operators)
    else:
        explain_run.plots(settings, image, box, (height, width), operators)


def _operator(name: str, switches: Sequence[str]) -> RoIOp:
    operator: RoIOp = configs.build(_node(name, switches))
    return operator


def _node(name: str, switches: Sequence[str]) -> DictConfig:
    """The config of an operator with changed switches."""
    try:
        node = operator_node(name)
    except UserError as error:
        raise UserError(f"operators={name}: {error}") from error
    given = OmegaConf.from_dotlist(list(switches))
    if unknown := sorted(str(key) for key in given if key not in node):
        raise UserError(
            f"{', '.join(unknown)}: neither a key of tools/explain.py nor a switch of {name}, which has "
            f"{', '.join(str(key) for key in node if not str(key).startswith('_'))}"
        )
    merged = OmegaConf.merge(node, given)
    assert isinstance(merged, DictConfig)
    return merged


def _checked_box(box: list[float], height: int, width: int) -> Box:
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise UserError(
            f"box={box} must be x1, y1, x2, y2 in pixels with x1 < x2 and y1 < y2, inside the image of "
            f"{width} x {height} (width x height)"
        )
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2
