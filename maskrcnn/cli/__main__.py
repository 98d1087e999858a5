"""`python -m maskrcnn.cli ...` runs the command `maskrcnn ...` without installation."""

from maskrcnn.cli.entry import main

if __name__ == "__main__":
    main()
