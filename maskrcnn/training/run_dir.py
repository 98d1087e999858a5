"""A run directory: one run at a time, with its checkpoints last.pt, best.pt and older ones."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from maskrcnn.console import console
from maskrcnn.errors import UserError
from maskrcnn.training import checkpoint

RESUMABLE = ("model", "step", "config", "optimizer", "scaler", "ema", "random_states")


class RunDir:
    """The files of one run.

    Args:
        path: an existing folder.
        keep: number of older checkpoints to keep as ``step_<step>.pt``.
    """

    def __init__(self, path: Path, keep: int = 1) -> None:
        self.path, self.keep = path, keep
        self._lock = FileLock(path / "lock")
        self._step_of_last: int | None = None

    def lock(self) -> None:
        """Lock the directory until `unlock`, or until this process ends.

        Raises:
            UserError: another process has locked it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"run_dir={self.path} is in use by {self._owner()}; wait for it, stop it, or give another run_dir"
            ) from error
        except OSError as error:
            raise UserError(f"run_dir={self.path} cannot be locked: {error}") from error
        (self.path / "owner").write_text(f"process {os.getpid()} on {socket.gethostname()}")

    def unlock(self) -> None:
        """Release the lock."""
        self._lock.release()

    def owner(self) -> str | None:
        """The other process that has locked the directory (``process 7 on host``), or None."""
        if not (self.path / "lock").exists():
            return None
        try:
            with self._lock.acquire(timeout=0):
                return None
        except Timeout:
            return self._owner()

    def _owner(self) -> str:
        path = self.path / "owner"
        return (path.read_text().strip() if path.exists() else "") or "another process"

    def newest(self) -> dict[str, Any] | None:
        """Load the newest readable checkpoint, or return None if there is none. Damaged ones are reported and skipped.

        Raises:
            UserError: all checkpoints are damaged, or only best.pt is left, which a new run would overwrite.
        """
        found, damage = self._readable()
        if found is not None:
            name, content = found
            for line in damage:
                console.print(f"{line}; resuming from {name} instead", style="yellow")
            self._step_of_last = int(content["step"]) if name == "last.pt" else None
            return content
        if damage:
            damage.append(f"no checkpoint is left to resume from; empty {self.path} to start again")
            raise UserError("\n".join(damage))
        if (best := self.path / "best.pt").exists():
            raise UserError(
                f"run_dir={self.path} holds best.pt and no last.pt to resume from: give another run_dir, with "
                f"init={best} to start from its weights"
            )
        return None

    def save_last(self, content: dict[str, Any]) -> None:
        """Write last.pt. The previous one becomes ``step_<step>.pt`` if it is intact and older."""
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
        """Record that the model of ``step`` was scored and all resulting files were written."""
        partial = self.path / "evaluated_step.partial"
        partial.write_text(f"{step}\n")
        partial.replace(self.path / "evaluated_step")

    def evaluated(self) -> int | None:
        """The step of the last `note_evaluated`; None if there was none, or if metrics.json is missing."""
        path = self.path / "evaluated_step"
        there = path.exists() and (self.path / "metrics.json").exists()
        text = path.read_text().strip() if there else ""
        return int(text) if text.isdigit() else None

    def stored(self) -> tuple[str, dict[str, Any]] | None:
        """Name and content of the checkpoint that `newest` would load, with tensors left in the file."""
        return self._readable(mmap=True)[0]

    def _readable(self, mmap: bool = False) -> tuple[tuple[str, dict[str, Any]] | None, list[str]]:
        """Name and content of the newest readable checkpoint, and the errors of those after it."""
        damage: list[str] = []
        for path in self._checkpoints():
            try:
                return (path.name, checkpoint.load_model(path, RESUMABLE, mmap)), damage
            except UserError as error:
                damage.append(str(error))
        return None, damage

    def kept(self) -> str:
        """A sentence about the step from which the run can be resumed."""
        stored = self.stored()
        if stored is not None:
            return f"{stored[0]} holds step {stored[1]['step']}; the same command resumes from there"
        if self._checkpoints():
            return f"no checkpoint in {self.path} can be read"
        return "there is no checkpoint yet; the same command starts again"

    def best(self) -> tuple[float | None, int]:
        """Score and step of best.pt; (None, 0) if it is missing or damaged, which is reported."""
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


def stored_config(run_dir: str | Path | None) -> dict[str, Any] | None:
    """The config of the run in ``run_dir``; None for a new run."""
    if run_dir is None or not Path(run_dir).is_dir():
        return None
    stored = RunDir(Path(run_dir)).stored()
    return None if stored is None else stored[1]["config"]
