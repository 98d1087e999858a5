"""Draw what the RoI operators see of a box:  python tools/explain.py box=[x1,y1,x2,y2] stride=32 key=value ...

Writes overview.png (the box as it is and as each operator reads it, bins and samples, the weight of every cell from the
operator's own gradient, what is lost and gained), bins.png, shift.png (image and box move together: what changes?) and
explain.json into run_dir, and prints the readings.

Examples:
  tools/explain.py                                     the articles' 665x665 box on a map of stride 32
  tools/explain.py image=photo.jpg box=[120,80,260,300] stride=16
  tools/explain.py operators=[align,align_legacy,warp,pool] output_size=3 sampling_ratio=1
  tools/explain.py image=photo.jpg box=[..] checkpoints=[a/last.pt,b/last.pt]   also: the masks of trained models
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("explain", __doc__)
