"""Train a Mask R-CNN.

Usage: maskrcnn train [key=value ...]

Examples:
  maskrcnn train                                              generated shapes, a small FPN model
  maskrcnn train roi_op=pool model=r18_c5 run_dir=runs/pool   another operator, another stride
  maskrcnn train data=custom data.train_annotations=A.json data.train_images=DIR \\
                 data.val_annotations=B.json data.val_images=DIR init=imagenet model=r50_fpn
  maskrcnn train experiment=nuclei data.root=DIR              a complete recipe

The groups model, roi_op, data, schedule and experiment are folders of configs/; maskrcnn/config/schema.py has the
other keys and their defaults. Repeat the command with the same run_dir to resume. The run writes config.yaml, last.pt,
best.pt, metrics.json, predictions.json, predictions.png and TensorBoard events into run_dir.
"""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn.config import compose as configs
from maskrcnn.training.interruption import interruptible


def main(arguments: Sequence[str]) -> None:
    """Compose the config from ``key=value`` arguments, then train (or resume) and evaluate."""
    with interruptible():
        config = configs.compose_config("train", arguments)
        import torch  # lazily, because it takes seconds and a wrong key should fail immediately

        from maskrcnn.config.build import trainer
        from maskrcnn.training.distributed import be_deterministic, joined, open_device

    torch.manual_seed(config.seed)
    be_deterministic(config.deterministic)
    device = open_device(config.device, config.threads)
    with joined(device) as world:
        trainer(config, device, world).fit()
