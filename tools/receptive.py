"""`python tools/receptive.py ...` is the command `maskrcnn receptive ...`; `--help` shows its usage."""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("receptive")
