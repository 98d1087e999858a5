"""Settings of every test process.

The tensors of the tests are small and pytest-xdist starts a process per core, so each process computes on one thread.
"""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported; processes that tests start inherit it
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
