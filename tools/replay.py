"""Run a step again that ended a training run:  python tools/replay.py step=runs/a/failed_step_00000012.pt [device=cpu]

Prints the losses of the run and of now, and the first module whose output is not finite.
"""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("replay", __doc__)
