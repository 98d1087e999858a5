"""`python tools/check_data.py ...` is the command `maskrcnn check-data ...`; `--help` shows its usage."""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("check-data")
