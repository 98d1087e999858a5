"""`python -m maskrcnn.cli ...` is the command `maskrcnn ...`, wherever the package is importable."""

from maskrcnn.cli.entry import main

if __name__ == "__main__":
    main()
