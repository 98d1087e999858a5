"""`python tools/ablate.py ...` is the command `maskrcnn ablate ...`; `--help` shows its usage."""

from maskrcnn.cli.entry import run_tool

if __name__ == "__main__":
    run_tool("ablate")
