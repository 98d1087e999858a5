"""RoI operators for region-based detectors: RoIAlign, RoIPool, RoIWarp and everything between them.

    roi_align, roi_pool, roi_warp      called like torchvision's, with the family's switches as keywords
    RoIAlign, RoIPool, RoIWarp         their module forms
    RoIOp                              one call for a pyramid and a padded batch of boxes; what configs name
    axis_reading                       what an operator of the family sees of a box, for figures
    batched_nms                        non-maximum suppression over images and groups
    masks_to_rle                       mask probabilities straight to COCO's run-length encoding

Compiled kernels where they were built, else the PyTorch reference (said once): `python -m maskrcnn_ops` tells.
"""

from . import kernels  # noqa: F401  (loads the compiled kernels)
from .anatomy import AxisReading, axis_reading
from .nms import batched_nms
from .operators import atomic_backward
from .position_sensitive import (
    PSRoIAlign,
    PSRoIPool,
    PSRoIWarp,
    ps_roi_align,
    ps_roi_pool,
    ps_roi_warp,
)
from .rle import masks_to_rle
from .roi_align import RoIAlign, roi_align
from .roi_op import RoIOp
from .roi_pool import RoIPool, roi_pool
from .roi_warp import RoIWarp, roi_warp
from .switches import PRESETS, Switches

__all__ = [
    "PRESETS",
    "AxisReading",
    "PSRoIAlign",
    "PSRoIPool",
    "PSRoIWarp",
    "RoIAlign",
    "RoIOp",
    "RoIPool",
    "RoIWarp",
    "Switches",
    "atomic_backward",
    "axis_reading",
    "batched_nms",
    "masks_to_rle",
    "ps_roi_align",
    "ps_roi_pool",
    "ps_roi_warp",
    "roi_align",
    "roi_pool",
    "roi_warp",
]
