"""Keys of configs that belong to no constructor, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from maskrcnn.errors import Positive, Precision, Seed
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.training.settings import Checkpoints, Log, Schedule


@dataclass
class Init:
    """Initial weights of a new run.

    Args:
        weights: a checkpoint or state dict (of this project, torchvision or Detectron2), ``imagenet`` (backbone only),
            or None. ``init=FILE`` is short for it.
        reset_heads: keep the random values of layers that have another shape, instead of stopping the run.
    """

    weights: str | None = None
    reset_heads: bool = False


@dataclass
class GivenProposals:
    """Proposals that replace the RPN's (``model.rpn=null``).

    Args:
        train: for the training images: a file of ``maskrcnn propose`` (``.npz``), COCO results, or ``ground_truth``,
            the objects' own boxes, to study the mask head by itself.
        val: the same for the validation images.
        most_train: number of proposals of a file to use per image, those with the highest scores.
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
        run_dir: output folder; None is runs/<date-time>.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: number of CPU threads; None is all cores.
        debug: print tracebacks of errors.
    """

    run_dir: str | None = None
    device: str = "auto"
    threads: Positive | None = None
    debug: bool = False


@dataclass
class OfCheckpoint:
    """Keys of commands that read a checkpoint. Every other key of its config can also be overridden.

    Args:
        checkpoint: a checkpoint.
        trust_checkpoint: also build parts outside this project, for example your own operators.
    """

    checkpoint: str | None = None
    trust_checkpoint: bool = False


@dataclass
class Train(Common):
    """Keys of ``maskrcnn train``. The groups model, roi_op and data are checked against their constructors.

    Args:
        seed: seed of initial weights, order and augmentation.
        deterministic: bit-identical repeats. An operation without a deterministic implementation ends the run.
        metric: ``coco`` or ``voc``; None is the data set's own.
        precision: precision of the arithmetic: ``fp32``, ``bf16`` and ``fp16`` by autocast, ``fp64`` for comparisons.
        accumulate: compute the images of a process in this many parts, one after the other, to save memory.
        compile: compile the backbone, the pyramid and the heads with torch.compile.
        cuda_graphs: with ``compile`` on a GPU, also capture CUDA graphs, one per canvas size.
        fast_convolutions: on a CPU without AVX-512, compute 3x3 convolutions by Winograd's method. Results are equal
            except for rounding.
        num_classes: None is filled in from the data set.
        num_keypoints: None is filled in from the data set.
        categories: None is filled in from the data set.
        box_roi_op: operator of the box head: a preset's name or its own settings. ``roi_op`` sets all three.
        mask_roi_op: operator of the mask head.
        keypoint_roi_op: operator of the keypoint head.
        mask_targets: ``exact`` samples the mask inside each region. ``bitmap_align`` is torchvision's method, which is
            slower.
    """

    seed: Seed = 0
    deterministic: bool = False
    metric: str | None = None
    precision: Precision = "fp32"
    accumulate: Positive = 1
    compile: bool = False
    cuda_graphs: bool = False
    fast_convolutions: bool = True
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
