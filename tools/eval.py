"""Score a checkpoint, or a file of predictions:  python tools/eval.py key=value ...

Examples:
  tools/eval.py checkpoint=runs/a/best.pt                       on the data it was trained with
  tools/eval.py checkpoint=runs/a/best.pt data=custom data.val_annotations=B.json data.val_images=DIR
  tools/eval.py checkpoint=runs/a/best.pt roi_op=pool           trained with one operator, tested with another
  tools/eval.py predictions=P.json annotations=A.json run_dir=DIR

Writes metrics.json (with a checkpoint also predictions.json and predictions.png) into run_dir.
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("eval", __doc__)
