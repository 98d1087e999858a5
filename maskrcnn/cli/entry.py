"""The command line: finds and runs a command, and turns errors into messages and exit statuses."""

from __future__ import annotations

import ast
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from maskrcnn.errors import Interrupted, UserError
from maskrcnn.training.interruption import interruptible

BAD_INPUT = 2
# A full disk, or missing permissions: not a bug of the program.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
# Settings that save memory, by command.
_FOR_MEMORY = {
    "train": "compute a batch in parts (accumulate=4), evaluate fewer images at once (evaluation.batch_size=1) or give "
    "precision=bf16: the same run_dir resumes with them. A smaller schedule.batch_size is another run",
    "eval": "give evaluation.batch_size=1",
    "propose": "give evaluation.batch_size=1",
    "predict": "give batch_size=1, or a smaller max_size",
}
STOPPED = 128 + signal.SIGINT  # as shells report it
INTERRUPTED = 75  # EX_TEMPFAIL of <sysexits.h>: repeat the command to resume


def main() -> None:
    """The console command `maskrcnn <command> ...`. Exits with the command's status."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
    elif name == "--version":
        print(f"maskrcnn {version('maskrcnn')}")
    elif name in commands():
        sys.argv = [f"maskrcnn {name}", *arguments]
        run_tool(name)
    else:
        close = get_close_matches(name, commands(), n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        print(f"error: no command {name!r}{meant} `maskrcnn --help` lists the commands", file=sys.stderr)
        sys.exit(BAD_INPUT)


def commands() -> dict[str, str]:
    """The usage text of every command, by name.

    It is the docstring of the command's module. The source is parsed instead of imported, because an import takes
    seconds.
    """
    texts = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        name, text = path.stem.replace("_", "-"), ast.get_docstring(ast.parse(path.read_text())) or ""
        if f"\nUsage: maskrcnn {name}" in text:
            texts[name] = text
    return texts


def _overview() -> str:
    lines = "\n".join(f"  {name:13} {text.splitlines()[0]}" for name, text in commands().items())
    return (
        "Mask R-CNN with interchangeable RoI operators.\n\nUsage: maskrcnn <command> [key=value ...]\n\n"
        f"Commands:\n{lines}\n\n"
        "`maskrcnn <command> --help` describes a command, `maskrcnn --version` prints the version."
    )


def run_tool(command: str) -> None:
    """Call ``main`` of a command's module with the arguments of the command line, and exit.

    A UserError is printed on stderr, and the status is 2. After Ctrl-C, the status is 130 if the command does not save
    first. ``debug=true`` prints their tracebacks. Configs can name modules of the working directory (``_target_:
    my_operator.MyOperator``).

    Args:
        command: name of a command, for example ``check-data``.
    """
    sys.path.append(os.getcwd())
    tool = command.replace("-", "_")
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(commands()[command])
        sys.exit(0)

    def main(arguments: Sequence[str]) -> None:
        with interruptible():  # imported lazily, so that --help does not import torch
            module = import_module(f"maskrcnn.cli.{tool}")
        module.main(arguments)

    # Exit outside the except blocks, because the error keeps workers alive, which must end before Python does.
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
        message = _message(error, tool)
        if message is None or "debug=true" in arguments:
            raise
        print(f"error: {message}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _message(error: Exception, tool: str) -> str | None:
    """The message of an error that the user can fix; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # compared by name, because torch is not imported here
        remedy = _FOR_MEMORY.get(tool, _FOR_MEMORY["train"])
        return f"the GPU's memory is full ({str(error).splitlines()[0]}); {remedy}"
    if isinstance(error, OSError) and error.errno in _REFUSED:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; what was written before is kept"
    return None
