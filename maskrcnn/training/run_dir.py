"""A run's directory: one run at a time in it, and its checkpoints last.pt, best.pt and those before the last."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from maskrcnn.console import console
from maskrcnn.errors import Interrupted, UserError
from maskrcnn.training import checkpoint

LEASE = 120.0  # seconds that a file server keeps the locks of a machine that is gone
_PAUSE = 1.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # some Lustre and NFS mounts
RESUMABLE = ("model", "step", "config", "optimizer", "scaler", "ema", "random_states")


class RunDir:
    """The files of one run.

    keep: how many checkpoints before the last one stay, as ``step_<step>.pt``.
    """

    def __init__(self, path: Path, keep: int = 1) -> None:
        self.path, self.keep = path, keep
        self._lock: IO[str] | None = None
        self._step_of_last: int | None = None

    def lock(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Keep other processes out until `unlock`. Raises UserError where another one is in.

        The lock belongs to the process, not to the file: it ends with the process, however that ends. A file server
        learns of the end of a whole machine only after a while, which is waited for; Interrupted is raised where this
        process ``should_stop`` meanwhile.
        """
        file = (self.path / "lock").open("a+")
        owner = self._claim(file)
        if owner is not None and _elsewhere(owner):
            console.print(
                f"{self.path} is in use by {owner}; if that machine is gone, its lock goes with it soon"
            )
            end = time.monotonic() + LEASE
            while owner is not None and time.monotonic() < end:
                if should_stop():
                    file.close()
                    raise Interrupted(f"nothing was begun: {self.path} is in use by {owner}")
                time.sleep(_PAUSE)
                owner = self._claim(file)
        if owner is not None:
            file.close()
            raise UserError(
                f"run_dir={self.path} is in use by {owner}; wait for it, stop it, or give another run_dir"
            )
        self._sign(file)

    def take_over(self) -> bool:
        """`lock` in the place of a process of this run that is gone, without waiting: of those left, one at most.

        False where another process is in, or where locks cannot tell.
        """
        if self._lock is not None:
            return True
        try:
            file = (self.path / "lock").open("r+")
        except OSError:  # not a file system that all machines share
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        # Some mounts know the locks of their own machine alone: there the owner on another one may well live.
        if not file.read().endswith(f" on {socket.gethostname()}"):
            file.close()
            return False
        self._sign(file)
        name, step = self.stored() or ("", 0)
        self._step_of_last = step if name == "last.pt" else None
        return True

    def _sign(self, file: IO[str]) -> None:
        """Note in a locked file whose it is."""
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._lock = file

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def owner(self) -> str | None:
        """Which other process is in, in words; None where the directory is free."""
        if not (self.path / "lock").exists():
            return None
        with (self.path / "lock").open("a+") as file:
            return self._claim(file)

    def _claim(self, file: IO[str]) -> str | None:
        """Lock an open file until it is closed; in words who has it, where that is another process."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                console.print(
                    f"{self.path} lies on a file system without locks ({error.strerror}): see to it yourself that no "
                    "other process uses it",
                    style="yellow",
                )
                return None
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(f"run_dir={self.path} cannot be locked: {error}") from error
            file.seek(0)
            return file.read().strip() or "another process"
        return None

    def newest(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None where there is none.

        One that is damaged is passed over in words. Raises UserError where there are some, but all damaged, or best.pt
        alone, which a new run would write over.
        """
        damage = []
        for path in self._checkpoints():
            try:
                content = checkpoint.load_model(path, RESUMABLE)
            except UserError as error:
                damage.append(str(error))
                continue
            for line in damage:
                console.print(f"{line}; going on from {path.name} instead", style="yellow")
            self._step_of_last = int(content["step"]) if path.name == "last.pt" else None
            return content
        if damage:
            raise UserError(
                "\n".join([*damage, f"no checkpoint is left to resume from; empty {self.path} to start anew"])
            )
        if (best := self.path / "best.pt").exists():
            raise UserError(
                f"run_dir={self.path} holds best.pt and no last.pt to resume from: give another run_dir, with "
                f"init={best} to start from its weights"
            )
        return None

    def save_last(self, content: dict[str, Any]) -> None:
        """Write last.pt; the one before becomes ``step_<step>.pt`` if it is whole and older."""
        last, step, before = self.path / "last.pt", int(content["step"]), self._step_of_last
        former = None
        if before not in (None, step) and self.keep > 0 and last.exists():
            former = self.path / f"step_{before:08d}.pt"
        self._write(last, content, former)
        self._step_of_last = step
        for path in self._older()[self.keep :]:
            path.unlink()

    def save_best(self, content: dict[str, Any]) -> None:
        """Write best.pt."""
        self._write(self.path / "best.pt", content)

    def note_evaluated(self, step: int) -> None:
        """The model of ``step`` is scored, and all that follows from it is written."""
        partial = self.path / "evaluated_step.partial"
        partial.write_text(f"{step}\n")
        partial.replace(self.path / "evaluated_step")

    def evaluated(self) -> int | None:
        """The step of the last `note_evaluated`; None where there was none, or its figures are gone."""
        path = self.path / "evaluated_step"
        there = path.exists() and (self.path / "metrics.json").exists()
        text = path.read_text().strip() if there else ""
        return int(text) if text.isdigit() else None

    def stored(self) -> tuple[str, int] | None:
        """Name and step of the checkpoint that `newest` would read, whichever process wrote it."""
        for path in self._checkpoints():
            try:
                return path.name, int(checkpoint.load_model(path, RESUMABLE, mmap=True)["step"])
            except UserError:  # `newest` says it, when it passes over the file
                continue
        return None

    def kept(self) -> str:
        """In words, from where the run can go on."""
        stored = self.stored()
        if stored is not None:
            return f"{stored[0]} holds step {stored[1]}; the same command goes on from there"
        if self._checkpoints():
            return f"no checkpoint in {self.path} can be read"
        return "there is no checkpoint yet; the same command starts anew"

    def best(self) -> tuple[float | None, int]:
        """Score and step of best.pt; (None, 0) where there is none, or it is damaged, which is said."""
        path = self.path / "best.pt"
        if not path.exists():
            return None, 0
        try:
            content = checkpoint.load_model(path)
        except UserError as error:
            console.print(f"{error}; the next evaluation replaces it", style="yellow")
            return None, 0
        return content["best"], int(content["step"])

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        return [path for path in (self.path / "last.pt", *self._older()) if path.exists()]

    def _older(self) -> list[Path]:
        """The checkpoints before the last one, newest first."""
        return sorted(self.path.glob("step_*.pt"), reverse=True)

    def _write(self, path: Path, content: dict[str, Any], former: Path | None = None) -> None:
        try:
            checkpoint.save(path, content, former)
        except OSError as error:
            kept = f"; {path.name} of before is still whole" if path.exists() else ""
            raise UserError(
                f"{path} cannot be written at step {content['step']}: {error}{kept}. Make room, or give "
                "checkpoint.keep=0, then start the same command again"
            ) from error


def _elsewhere(owner: str) -> bool:
    """Whether the process that a lock file names runs on another machine."""
    host = owner.partition(" on ")[2]
    return bool(host) and host != socket.gethostname()
