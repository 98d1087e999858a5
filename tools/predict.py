"""Detect objects in images:  python tools/predict.py checkpoint=C input=<file|folder|glob> [key=value ...]

Examples:
  tools/predict.py checkpoint=runs/a/best.pt input=photo.jpg
  tools/predict.py checkpoint=runs/a/best.pt 'input=photos/*.png' run_dir=out score_threshold=0.7

Writes into run_dir the images with what was found drawn onto them, predictions.json (COCO results, each with its
file_name) and annotations.json (a COCO data set that annotation programs open).
"""

from maskrcnn.cli import run_tool
from maskrcnn.commands.predict import main

if __name__ == "__main__":
    run_tool(main, __doc__)
