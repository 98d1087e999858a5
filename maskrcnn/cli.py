"""How every command ends: status 0 only when what was asked for was done, and words for a person's mistake."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from maskrcnn.errors import UserError

BAD_INPUT = 2


def run_tool(main: Callable[[Sequence[str]], None], description: str | None) -> None:
    """Call ``main`` with the command line's arguments and exit.

    A UserError is printed on stderr and ends with status 2; ``debug=true`` lets its traceback through.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(description)
        sys.exit(0)
    try:
        main(arguments)
    except UserError as error:
        if "debug=true" in arguments:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
