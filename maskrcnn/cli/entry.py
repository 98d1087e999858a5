"""How every command ends: status 0 only when what was asked for was done, and words for a person's mistake."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from maskrcnn.errors import Interrupted, UserError

BAD_INPUT = 2
# A full disk, a folder or file that belongs to somebody else: no fault of the program's.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
# What takes less memory, by tool.
_FOR_MEMORY = {
    "train": "compute a batch in parts (accumulate=4), evaluate fewer images at once (evaluation.batch_size=1) or give "
    "precision=bf16: the same run_dir goes on with them. A smaller schedule.batch_size is another run",
    "eval": "give evaluation.batch_size=1",
    "propose": "give evaluation.batch_size=1",
    "predict": "give batch_size=1, or a smaller max_size",
}
STOPPED = 128 + signal.SIGINT  # as shells report it
INTERRUPTED = 75  # EX_TEMPFAIL of <sysexits.h>: the same command goes on where this one stopped


def run_tool(tool: str, description: str | None) -> None:
    """Call ``main`` of the module maskrcnn.cli.``tool`` with the command line's arguments and exit.

    A UserError is printed on stderr and ends with status 2, Ctrl-C with 130 where the tool does not save first;
    ``debug=true`` lets their tracebacks through. Modules of the working directory can be named in configs
    (``_target_: my_operator.MyOperator``).
    """
    sys.path.append(os.getcwd())
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(description)
        sys.exit(0)

    def main(arguments: Sequence[str]) -> None:
        # Imported here: --help does not wait for torch, and Ctrl-C meanwhile ends the process as the system does it.
        # There is nothing to save yet, and an exception might be caught by what is being imported.
        handler = signal.getsignal(signal.SIGINT)
        if handler is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        module = import_module(f"maskrcnn.cli.{tool}")
        signal.signal(signal.SIGINT, handler)
        module.main(arguments)

    # Left only once the error is forgotten: what it kept alive (processes that load data) ends before Python does.
    sys.exit(_status(main, arguments, tool))


def _status(main: Callable[[Sequence[str]], None], arguments: Sequence[str], tool: str = "train") -> int:
    try:
        main(arguments)
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        if "debug=true" in arguments:
            raise
        print("stopped at once; what was written before is kept", file=sys.stderr)
        return STOPPED
    except Exception as error:
        words = _words(error, tool)
        if words is None or "debug=true" in arguments:
            raise
        print(f"error: {words}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _words(error: Exception, tool: str) -> str | None:
    """What a person can do something about, in words; None for a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, by name: --help does not wait for torch
        remedy = _FOR_MEMORY.get(tool, _FOR_MEMORY["train"])
        return f"the GPU's memory is full ({str(error).splitlines()[0]}); {remedy}"
    if isinstance(error, OSError) and error.errno in _REFUSED:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; what was written before is kept"
    return None
