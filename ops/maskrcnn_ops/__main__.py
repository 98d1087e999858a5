"""`python -m maskrcnn_ops` prints which kernels are used on this machine, and why others are not."""

from .kernels import report

print(report())
