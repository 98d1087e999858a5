"""Look at a data set or at predictions:  python tools/browse.py run=DIR|annotations=FILE images=DIR [key=value ...]

Examples:
  tools/browse.py run=runs/a run_dir=runs/a/gallery                   a run's predictions beside the ground truth
  tools/browse.py annotations=train.json images=train/                a data set
  tools/browse.py annotations=val.json images=val/ predictions=predictions.json score_threshold=0.3
  tools/browse.py data=shapes split=train num_images=50

Writes index.html, which a browser opens without a network or server, and the pictures beside it. The page sorts by the
number of errors (missed, background, localisation, ...), of objects or by name, and filters by class and name.
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("browse", __doc__)
