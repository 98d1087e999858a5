"""The paper's ablations, measured:  python tools/ablate.py [table=strides] [scale=shapes] [seeds=1] key=value ...

Trains every cell of a table (an ordinary run of tools/train.py each), then writes cells.csv, report.md, report.html,
report.tex and manifest.json into out. Killed and started again, it does what is missing.

Examples:
  tools/ablate.py                                              align, warp, pool at strides 16 and 32, on shapes
  tools/ablate.py seeds=5 out=results/strides-shapes
  tools/ablate.py table=switches seeds=3                       which difference between pool and align matters
  tools/ablate.py table=2c scale=coco data.root=DIR nproc=8    the paper's Table 2c
  tools/ablate.py table=2c scale=coco data.root=DIR launcher=submitit_slurm hydra.launcher.partition=gpu

table and scale name a file of configs/tables/.
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("ablate", __doc__)
