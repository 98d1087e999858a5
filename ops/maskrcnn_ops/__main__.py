"""`python -m maskrcnn_ops`: which kernels run here, and why others do not."""

from .kernels import report

print(report())
