"""Checks of settings and data before training."""

from __future__ import annotations

import torch

from maskrcnn.data.dataset import Dataset, check_same_categories
from maskrcnn.errors import UserError
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.detector import MaskRCNN


def num_classes(model: MaskRCNN) -> int:
    """Number of classes of the heads; 1 for a proposal network, which detects objects of any class."""
    head = model.box_head or model.mask_head
    return 1 if head is None else head.num_classes


def check_together(
    evaluation: Evaluation, device: torch.device, compile: bool, cuda_graphs: bool, accumulate: int
) -> None:
    """Raise UserError for settings that contradict each other. Arguments as in `Trainer`."""
    if evaluation.patience and not evaluation.every:
        raise UserError(
            f"evaluation.patience={evaluation.patience} counts evaluations, but with evaluation.every=0 there "
            "is one, at the end: set evaluation.every to the steps between two"
        )
    if not cuda_graphs:
        return
    if device.type != "cuda":
        raise UserError(f"cuda_graphs=true needs a GPU, but the run is on {device}: leave it out")
    if not compile:
        raise UserError("cuda_graphs=true captures what compile=true compiles: set that too")
    if accumulate > 1:
        raise UserError(
            f"cuda_graphs=true with accumulate={accumulate}: CUDA graphs overwrite accumulated gradients "
            "(pytorch issue 169545); set accumulate=1"
        )


def check_learnable(model: MaskRCNN, train_set: Dataset, val_set: Dataset | None) -> None:
    """Raise UserError if the model cannot be trained on the annotations, or cannot be scored on them."""
    if val_set is not None:
        check_same_categories(train_set, val_set)
    found = len(train_set.categories)
    if (model.box_head or model.mask_head) is not None and num_classes(model) != found:
        raise UserError(
            f"the model has num_classes={num_classes(model)}, but the data set has {found} categories"
        )
    if (objects := int(train_set.num_objects.sum())) == train_set.num_crowds:
        marked = f": all {objects} are marked iscrowd=1" if objects else ""
        raise UserError(f"the training annotations hold no object to learn from{marked}")
    if model.keypoint_head is not None and not train_set.num_keypoints:
        raise UserError("the model has a keypoint head, but the data set has no keypoints")
    for split, dataset in (("training", train_set), ("validation", val_set)):
        lacking = dataset is not None and dataset.num_objects.any() and not dataset.has_masks
        if model.mask_head is not None and lacking:
            raise UserError(
                f"the {split} annotations have no masks (segmentation); set model.mask_head=null for boxes only"
            )
