"""Counts the files that a training step and a prediction enter, and draws the longest chains of calls.

Usage: python -m tests.docs.entered [docs/calls.svg]

A file is entered when one of its functions is called; importing it does not count. The run has one process and the
default config, with fewer and smaller images.
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "data.source.num_train=8",
    "data.source.num_val=2",
    "data.source.image_size=96",
    "data.num_workers=0",
    "schedule.steps=1",
    "schedule.batch_size=2",
    "threads=1",
]
Call = tuple[str, str]  # file, function


class Calls:
    """Records the project's calls while it is active.

    Attributes:
        order: every call of a function of the project or of torch's convolution, in order.
        chains: the stack of the project's files at each call, the outermost first, each file once.
    """

    def __init__(self) -> None:
        self.order: list[Call] = []
        self.chains: list[list[Call]] = []
        self.yaml: set[str] = set()
        sys.addaudithook(self._opened)

    def _opened(self, event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event == "open"
            and str(arguments[0]).endswith(".yaml")
            and f"{os.sep}configs{os.sep}" in str(arguments[0])
        ):
            self.yaml.add(str(arguments[0]))

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        # The body of a class, which an import runs, is no function.
        function = frame.f_code.co_flags & inspect.CO_OPTIMIZED
        if event != "call" or not function or frame.f_code.co_name.startswith("<"):
            return
        if (call := _named(frame)) is not None:
            self.order.append(call)
            self.chains.append(_chain(frame))

    def record(self, function: Callable[[], object]) -> None:
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            function()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def files(self, first: Call | None, last: Call) -> list[str]:
        """The files that are entered from the call ``first`` (None: the beginning) up to ``last``, in order."""
        begin = 0 if first is None else self._place(first, 0)
        end = self._place(last, begin)
        return list(dict.fromkeys(file for file, _ in self.order[begin:end] if not file.startswith("torch/")))

    def longest(self, within: Call, last: Call | None = None) -> list[Call]:
        """The longest chain that begins with the call ``within``, of those before the call ``last``."""
        chains = self.chains if last is None else self.chains[: self._place(last, 0)]
        below = [chain[chain.index(within) :] for chain in chains if within in chain]
        return max(below, key=len)

    def _place(self, call: Call, begin: int) -> int:
        return next(i for i in range(begin, len(self.order)) if self.order[i] == call)


def _named(frame: FrameType) -> Call | None:
    path, name = frame.f_code.co_filename, frame.f_code.co_qualname
    if path.startswith((f"{ROOT}/maskrcnn", f"{ROOT}/ops")):
        return path.removeprefix(f"{ROOT}/").removeprefix("ops/"), name
    if path.endswith("torch/nn/modules/conv.py") and name == "Conv2d.forward":
        return "torch/conv.py", name
    return None


def _chain(frame: FrameType | None) -> list[Call]:
    calls: dict[str, Call] = {}
    while frame is not None:
        if not frame.f_code.co_name.startswith("<") and (call := _named(frame)) is not None:
            calls[call[0]] = call  # the outermost call of a file stands for it
        frame = frame.f_back
    return [call for call in reversed(calls.values()) if not call[0].startswith("torch/")]


def training(folder: Path) -> Calls:
    """The calls of `maskrcnn train`, to the end of its first step and the evaluation."""
    from maskrcnn.cli import train

    calls = Calls()
    arguments = [*ARGUMENTS, f"data.root={folder / 'drawn'}", f"run_dir={folder / 'run'}"]
    calls.record(lambda: train.main(arguments))
    return calls


def prediction(folder: Path) -> Calls:
    """The calls of `Predictor.predict` on one image."""
    import numpy as np

    from maskrcnn.prediction.predictor import Predictor

    predictor, calls = Predictor(folder / "run" / "last.pt", device="cpu"), Calls()
    calls.record(lambda: predictor.predict([np.zeros((96, 96, 3), np.uint8)]))
    return calls


def picture(chains: dict[str, list[Call]]) -> str:
    """The chains as an SVG: a column for each, a box for each file."""
    width, box, step = 440, 34, 52
    height = 50 + step * max(map(len, chains.values()))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(chains)} {height}" '
        'font-family="sans-serif" font-size="13">',
        "<style>text{fill:#222} rect{fill:#eef0fb;stroke:#3f51b5} line{stroke:#3f51b5}</style>",
    ]
    for column, (title, chain) in enumerate(chains.items()):
        left = width * column + 10
        parts.append(f'<text x="{left}" y="24" font-weight="bold" font-size="15">{title}</text>')
        for row, (file, function) in enumerate(chain):
            top = 40 + step * row
            if row:
                middle = left + width // 2 - 10
                parts.append(f'<line x1="{middle}" x2="{middle}" y1="{top - step + box}" y2="{top}"/>')
            parts.append(f'<rect x="{left}" y="{top}" width="{width - 20}" height="{box}" rx="4"/>')
            parts.append(f'<text x="{left + 10}" y="{top + 22}">{file.removeprefix("maskrcnn/")}</text>')
            parts.append(
                f'<text x="{left + width - 30}" y="{top + 22}" text-anchor="end" font-style="italic">{function}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trained, predicted = training(Path(folder)), prediction(Path(folder))
    first_loss = next(call for call in trained.order if call[1] == "MaskRCNN.losses")
    read = next(call for call in trained.order if call[1] == "read_image")
    before, path = (
        trained.files(None, first_loss),
        trained.files(read, ("torch/conv.py", "Conv2d.forward")),
    )
    print(f"before the first step: {len(before)} Python files, {len(trained.yaml)} YAML files")
    print("  " + " ".join(before))
    print(f"from an image file to the first convolution: {len(path)} Python files")
    print("  " + " ".join(path))
    step = next(call for call in trained.order if call[0] == "maskrcnn/training/loop.py")
    evaluation = ("maskrcnn/evaluation/evaluator.py", "detect_images")
    chains = {
        "One training step": trained.longest(step, evaluation),
        "One prediction": predicted.longest(predicted.order[0]),
    }
    for title, chain in chains.items():
        print(f"{title}: {len(chain)} files")
        print("  " + " > ".join(f"{file}:{function}" for file, function in chain))
    for name in arguments:
        Path(name).write_text(picture(chains))


if __name__ == "__main__":
    main(sys.argv[1:])
