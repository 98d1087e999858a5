"""Measure this project beside its peers:  python tools/benchmark.py suite=ops [out=FILE.json] key=value ...

Both sides run in one process, in turns; printed are the medians of the ratios and their spread. What else is given
goes to the suite (benchmarks/<suite>.py).

Examples:
  tools/benchmark.py suite=ops out=benchmarks/ops.json
  tools/benchmark.py suite=data root=DIR out=benchmarks/data.json
  DIR holds COCO's val2017/ and annotations/instances_val2017.json
"""

import sys
from pathlib import Path

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    run_tool("benchmark", __doc__)
