"""How every command ends: status 0 only when what was asked for was done, and words for a person's mistake."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

from maskrcnn.errors import Interrupted, UserError

BAD_INPUT = 2
# A full disk, a folder or file that belongs to somebody else: no fault of the program's.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
INTERRUPTED = 75  # EX_TEMPFAIL of <sysexits.h>: the same command goes on where this one stopped


def run_tool(main: Callable[[Sequence[str]], None], description: str | None) -> None:
    """Call ``main`` with the command line's arguments and exit.

    A UserError is printed on stderr and ends with status 2; ``debug=true`` lets its traceback through. Modules of the
    working directory can be named in configs (``_target_: my_operator.MyOperator``).
    """
    sys.path.append(os.getcwd())
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(description)
        sys.exit(0)
    # Left only once the error is forgotten: what it kept alive (processes that load data) ends before Python does.
    sys.exit(_status(main, arguments))


def _status(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    try:
        main(arguments)
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        if "debug=true" in arguments:
            raise
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except RuntimeError as error:
        if "debug=true" in arguments or type(error).__name__ != "OutOfMemoryError":
            raise
        print(
            f"error: the GPU's memory is full ({str(error).splitlines()[0]}). Compute a batch in parts "
            "(accumulate=4), give a smaller schedule.batch_size or evaluation.batch_size, or precision=bf16",
            file=sys.stderr,
        )
        return BAD_INPUT
    except OSError as error:
        if "debug=true" in arguments or error.errno not in _REFUSED:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}; what was written before is kept", file=sys.stderr)
        return BAD_INPUT
    return 0
