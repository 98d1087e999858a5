"""tools/slurm.sh with stand-ins for SLURM's commands that treat signals as SLURM 22.05 was seen to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STAND_INS = {
    # Told to stop, srun kills the processes of the step; it hands the signal on to none.
    "srun": """
while [[ $1 == --* ]]; do shift; done
setsid "$@" & echo $! > "$STATE/step"
trap 'kill -KILL -- -$(cat "$STATE/step")' TERM
wait $!; status=$?
while kill -0 "$(cat "$STATE/step")" 2>/dev/null; do wait "$(cat "$STATE/step")"; status=$?; done
exit $status
""",
    "scancel": """
[[ "$*" == "--signal=TERM $SLURM_JOB_ID.0" ]] && kill -TERM -- -$(cat "$STATE/step")
""",
    "scontrol": """
case $1 in show) echo localhost ;; requeue) echo "$2" > "$STATE/requeued" ;; esac
""",
}


@pytest.mark.slow
def test_a_preempted_job_saves_and_is_queued_again(tiny: Sequence[str], tmp_path: Path) -> None:
    job = str(random.SystemRandom().randrange(10**6))
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash{body}")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "STATE": str(tmp_path),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "1",
    }
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = ["bash", "tools/slurm.sh", *tiny, "schedule.steps=100000", f"run_dir={run_dir}"]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=REPOSITORY) as script,
    ):
        end = time.monotonic() + 120
        while "step 4/" not in log.read_text():
            assert script.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) == 0, log.read_text()
    assert "interrupted: saved at step" in log.read_text()
    assert (run_dir / "last.pt").exists()
    assert (tmp_path / "requeued").read_text().strip() == job
