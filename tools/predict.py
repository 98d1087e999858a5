"""Detect objects:  python tools/predict.py checkpoint=C input=<file|folder|glob|video|camera> [key=value ...]

Examples:
  tools/predict.py checkpoint=runs/a/best.pt input=photo.jpg
  tools/predict.py checkpoint=runs/a/best.pt 'input=photos/*.png' run_dir=out score_threshold=0.7 masks=true
  tools/predict.py checkpoint=runs/a/best.pt input=clip.mp4 batch_size=8
  tools/predict.py checkpoint=runs/a/best.pt input=0 max_frames=300          the first camera
  tools/predict.py checkpoint=runs/a/best.pt input=photos flip=true 'scales=[0.8,1.0,1.2]'

Writes into run_dir the images (or the video) with what was found drawn onto them, predictions.json (COCO results, each
with its file_name) and annotations.json (a COCO data set that annotation programs open); with masks=true a PNG for each
mask. Memory does not grow with the number or the size of the images: the network sees at most max_size pixels.
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("predict", __doc__)
