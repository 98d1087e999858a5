"""Store the proposals of a trained RPN.

Usage: maskrcnn propose checkpoint=FILE run_dir=DIR

Writes DIR/train.npz and DIR/val.npz with the boxes and scores of each image, and prints their recall. Runs that share
them (such as the runs of an ablation) take  model.rpn=null proposals.train=DIR/train.npz proposals.val=DIR/val.npz

Examples:
  maskrcnn train model=r18_rpn run_dir=runs/rpn
  maskrcnn propose checkpoint=runs/rpn/last.pt run_dir=runs/rpn/proposals
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import track

from maskrcnn.config import compose as configs
from maskrcnn.config.data import open_data
from maskrcnn.console import console
from maskrcnn.errors import UserError
from maskrcnn.evaluation.coco import load_ground_truth
from maskrcnn.evaluation.recall import Recall
from maskrcnn.training.interruption import interruptible
from maskrcnn.training.session import open_run_dir


@dataclass
class Propose(configs.Common, configs.OfCheckpoint):
    """Keys of ``maskrcnn propose``."""


def main(arguments: Sequence[str]) -> None:
    """Write train.npz and val.npz to the run directory."""
    settings, rest = configs.compose_command("propose", arguments, Propose)
    if settings.checkpoint is None:
        raise UserError("give checkpoint=FILE, a run of a proposal network (model.box_head=null)")
    with interruptible():  # here, because torch takes seconds: a wrong key is answered at once
        from maskrcnn.config.build import eval_loader_of, load_trained
        from maskrcnn.data.proposals import ProposalWriter
        from maskrcnn.evaluation.evaluator import detect_images
        from maskrcnn.training.distributed import open_device

    config, model, _ = load_trained(settings.checkpoint, rest, settings.trust_checkpoint)
    if model.rpn is None:
        raise UserError(
            f"the model of {settings.checkpoint} has no RPN (model.rpn=null), so it proposes nothing"
        )
    model.box_head = model.mask_head = model.keypoint_head = None
    device = open_device(settings.device, settings.threads)
    run_dir = open_run_dir(settings.run_dir)
    model.to(device)
    for split in ("train", "val"):
        dataset = open_data(config, split)
        images = detect_images(model, eval_loader_of(config, dataset, device), device)
        shown = track(images, split, total=len(dataset), console=console, disable=not console.is_terminal)
        objects = load_ground_truth(dataset.ground_truth()).imgToAnns
        writer, recall = ProposalWriter(), Recall(config.model.rpn.post_nms_test)
        for image_id, found in shown:
            writer.add(image_id, found.boxes.numpy(), found.scores.numpy())
            recall.add(found.boxes.numpy(), objects.get(image_id, []))
        count = writer.write(run_dir / f"{split}.npz")
        words = ", ".join(
            f"{name} {value:.1f}" for name, value in recall.figures().items() if value is not None
        )
        console.print(f"{run_dir / split}.npz: {count} proposals; {words}")
