"""Two cells of an ablation that are evaluated at the same time, and what else is printed meanwhile."""

from __future__ import annotations

import sys
import threading

import pytest

from maskrcnn.evaluation.backends import silence


def test_one_thread_is_silent_and_the_others_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    within, printed = threading.Event(), threading.Event()

    def evaluate() -> None:
        with silence():
            print("DONE (t=0.55s).")
            within.set()
            printed.wait(10)
            print("DONE again")

    threads = [threading.Thread(target=evaluate) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert within.wait(10)
    print("16-pool-seed0 begins")
    printed.set()
    for thread in threads:
        thread.join(10)
    print("16-align-seed0 done")
    assert capsys.readouterr().out == "16-pool-seed0 begins\n16-align-seed0 done\n"
    assert sys.stdout is before
