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


def environment(state: Path, job: str) -> dict[str, str]:
    """What SLURM sets, with the stand-ins first among the commands."""
    for name, body in STAND_INS.items():
        (state / name).write_text(f"#!/bin/bash{body}")
        (state / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(state), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "STATE": str(state),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "6",
    }


@pytest.mark.parametrize(
    ("given", "directory"),
    [
        ([], "run_dir=runs/slurm-77"),
        (["seed=1"], "run_dir=runs/slurm-77"),
        (["run_dir=a b", "seed=1"], "run_dir=a b"),
    ],
)
def test_a_job_has_a_run_directory_and_its_cores(tmp_path: Path, given: list[str], directory: str) -> None:
    """A job that is queued again would begin anew in a directory named after the time."""
    slurm = environment(tmp_path, "77")
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    command = ["bash", "tools/slurm.sh", *given]
    done = subprocess.run(command, env=slurm, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    passed = done.stdout.splitlines()
    assert [line for line in passed if line.startswith("run_dir=")] == [directory]
    assert set(given) <= set(passed[passed.index("tools/train.py") :])
    assert "--cpus-per-task=6" in passed[: passed.index("torchrun")]


@pytest.mark.slow
def test_a_preempted_job_saves_and_is_queued_again(tiny: Sequence[str], tmp_path: Path) -> None:
    job = str(random.SystemRandom().randrange(10**6))
    slurm = environment(tmp_path, job)
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = ["bash", "tools/slurm.sh", *tiny, "schedule.steps=100000", f"run_dir={run_dir}"]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=slurm, cwd=REPOSITORY) as script,
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
