"""Train a Mask R-CNN:  python tools/train.py [key=value ...]

Examples:
  tools/train.py                                            generated shapes, a small FPN model
  tools/train.py roi_op=pool model=r18_c5 run_dir=runs/pool another operator, another stride
  tools/train.py data=custom data.train_annotations=A.json data.train_images=DIR \\
                 data.val_annotations=B.json data.val_images=DIR init=imagenet model=r50_fpn
  tools/train.py +experiment=nuclei data.root=DIR           a whole recipe

Keys: configs/train.yaml and the groups model, roi_op, data, schedule, experiment beside it. Started again in the same
run_dir, training resumes. The run directory receives config.yaml, last.pt, best.pt, metrics.json, predictions.json,
predictions.png and TensorBoard events.
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("train", __doc__)
