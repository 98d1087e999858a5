"""The keys of configs that belong to no constructor, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from maskrcnn.errors import Positive, Precision, Seed
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.training.schedule import Schedule
from maskrcnn.training.settings import Checkpoints, Log


@dataclass
class Init:
    """Where the weights of a new run come from.

    Args:
        weights: a checkpoint or state dict (of this project, torchvision or Detectron2), ``imagenet`` (the backbone
            alone), or None. ``init=FILE`` is short for it.
        reset_heads: layers of another shape keep their random values instead of stopping the run.
    """

    weights: str | None = None
    reset_heads: bool = False


@dataclass
class GivenProposals:
    """Proposals that replace the RPN's (``model.rpn=null``).

    Args:
        train: for the training images: a file of tools/propose.py (``.npz``), COCO results, or ``ground_truth``: the
            objects' own boxes, which leaves the mask head alone to be studied.
        val: the same for the validation images.
        most_train: the best ones of an image in a file that are used.
        most_val: the same for the validation images (the paper's ablations test with 300).
    """

    train: str | None = None
    val: str | None = None
    most_train: Positive = 2000
    most_val: Positive = 1000


@dataclass
class Common:
    """Keys of every command.

    Args:
        run_dir: where files are written; None is runs/<date-time>.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of the CPU; None is all cores.
        debug: print tracebacks of errors.
    """

    run_dir: str | None = None
    device: str = "auto"
    threads: Positive | None = None
    debug: bool = False


@dataclass
class Train(Common):
    """Keys of tools/train.py. The groups model, roi_op and data are checked against their own constructors.

    Args:
        seed: of first weights, order and augmentation.
        deterministic: the same bits twice; an operation without a deterministic variant ends the run.
        metric: ``coco`` or ``voc``; None is the data set's own.
        precision: of the arithmetic; ``bf16`` and ``fp16`` by autocast, ``fp64`` for comparisons.
        accumulate: parts that a process computes its share of a batch in, one after the other, to save memory.
        compile: torch.compile of backbone, pyramid and heads.
        cuda_graphs: with ``compile`` on a GPU, also capture what is compiled, for every size of canvas.
        fast_gradients: on a CPU without AVX-512, compute the gradients of convolutions by matrix products; the results
            are equal to rounding.
        num_classes: None is filled from the data set.
        num_keypoints: None is filled from the data set.
        categories: None is filled from the data set.
        box_roi_op: operator of the box head: a preset's name or its own settings; ``roi_op`` sets all three.
        mask_roi_op: operator of the mask head.
        keypoint_roi_op: operator of the keypoint head.
        mask_targets: ``exact`` reads the mask inside each region; ``bitmap_align`` is torchvision's way, slower.
    """

    seed: Seed = 0
    deterministic: bool = False
    metric: str | None = None
    precision: Precision = "fp32"
    accumulate: Positive = 1
    compile: bool = False
    cuda_graphs: bool = False
    fast_gradients: bool = True
    num_classes: int | None = None
    num_keypoints: int | None = None
    categories: list[dict[str, Any]] | None = None
    model: dict[str, Any] = field(default_factory=dict)
    roi_op: dict[str, Any] = field(default_factory=dict)
    box_roi_op: dict[str, Any] | str | None = None
    mask_roi_op: dict[str, Any] | str | None = None
    keypoint_roi_op: dict[str, Any] | str | None = None
    mask_targets: str = "exact"
    data: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    proposals: GivenProposals = field(default_factory=GivenProposals)
    init: Init = field(default_factory=Init)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    evaluation: Evaluation = field(default_factory=Evaluation)
    log: Log = field(default_factory=Log)


def defaults_of(schema: type) -> dict[str, Any]:
    """The default values of a dataclass, those of dataclasses in it as nested dictionaries."""
    values = schema()
    return {f.name: _plain_default(getattr(values, f.name)) for f in fields(schema)}


def _plain_default(value: Any) -> Any:
    return defaults_of(type(value)) if is_dataclass(value) else value
