"""What a run says of itself."""

from __future__ import annotations

import subprocess
import sys

from maskrcnn.engine.logs import peak_memory_mib

SAY = "from maskrcnn.engine.logs import peak_memory_mib; print(peak_memory_mib())"


def test_the_memory_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    def said() -> float:
        return float(subprocess.run([sys.executable, "-c", SAY], check=True, capture_output=True).stdout)

    alone = said()
    held = bytearray(2**30)
    held[::4096] = b"\1" * len(held[::4096])
    assert peak_memory_mib() > 1024
    assert abs(said() - alone) < 100
