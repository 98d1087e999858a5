"""`python tools/prepare_data.py ...` is the command `maskrcnn prepare-data ...`; `--help` shows its usage."""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("prepare-data")
