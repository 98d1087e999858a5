"""tools/propose.py: the proposals of a trained RPN, stored for the runs that share them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import track

from maskrcnn import assembly
from maskrcnn import config as configs
from maskrcnn.engine.evaluate import detect_all
from maskrcnn.engine.logs import console
from maskrcnn.errors import UserError
from maskrcnn.evaluation.recall import average_recall


@dataclass
class Propose(configs.Common):
    """The keys of configs/propose.yaml."""

    checkpoint: str | None = None
    trust_checkpoint: bool = False


def main(arguments: Sequence[str]) -> None:
    """Write train.json and val.json, COCO results of one class, into the run directory."""
    own, rest = configs.split(arguments, Propose)
    settings = configs.compose_config("propose", own, Propose)
    if settings.checkpoint is None:
        raise UserError("give checkpoint=FILE, a run of a proposal network (model.box_head=null)")
    config, model, _ = assembly.load_trained(
        settings.checkpoint, rest, configs.Train, settings.trust_checkpoint
    )
    if model.rpn is None:
        raise UserError(
            f"the model of {settings.checkpoint} has no RPN (model.rpn=null), so it proposes nothing"
        )
    model.box_head = model.mask_head = model.keypoint_head = None
    device = assembly.open_device(settings.device, settings.threads)
    run_dir = assembly.open_run_dir(settings.run_dir)
    make_loader, transform = configs.build(config.data.test_loader), configs.build(config.data.test_transform)
    for split in ("train", "val"):
        dataset = assembly.open_data(config, split)
        loader = make_loader(
            dataset, transform, config.evaluation.batch_size, pin_memory=device.type == "cuda"
        )
        images = detect_all(model.to(device), loader, dataset.category_ids, device)
        shown = track(images, split, total=len(dataset), console=console, disable=not console.is_terminal)
        found = [result for _, results in shown for result in results]
        (run_dir / f"{split}.json").write_text(json.dumps([_rounded(result) for result in found]))
        most = config.model.rpn.post_nms_test
        recall = average_recall(found, dataset.ground_truth(), most, [int(i) for i in dataset.image_ids])
        words = ", ".join(f"{name} {value:.1f}" for name, value in recall.items() if value is not None)
        console.print(f"{run_dir / split}.json: {len(found)} proposals; {words}")


def _rounded(result: dict[str, object]) -> dict[str, object]:
    box, score = result["bbox"], result["score"]
    assert isinstance(box, list)
    assert isinstance(score, float)
    return {**result, "bbox": [round(value, 3) for value in box], "score": round(score, 6)}
