"""RoI operators for region-based detectors: RoIAlign, RoIPool, RoIWarp and the operators between them.

    roi_align, roi_pool, roi_warp               functions with torchvision's arguments, and the switches as keywords
    ps_roi_align, ps_roi_pool, ps_roi_warp      their position-sensitive forms (R-FCN)
    RoIAlign, RoIPool, RoIWarp, PSRoIAlign, ... module forms
    RoIOp                                       one call for a pyramid and a padded batch of boxes; named by configs
    axis_reading                                how an operator reads a box along one axis, for figures
    batched_nms                                 non-maximum suppression over images and groups
    masks_to_rle                                mask probabilities to COCO's run-length encoding
    conv3x3, conv3x3_input_gradient, ...        3x3 convolutions by Winograd's method, on a CPU

The operators use compiled kernels if they were built, and the PyTorch reference otherwise, with one warning.
`python -m maskrcnn_ops` prints which of them are used.
"""

from . import kernels  # noqa: F401  (loads the compiled kernels)
from .geometry import AxisReading, axis_reading
from .nms import batched_nms
from .operators import atomic_backward
from .pooling import RoIAlign, RoIPool, RoIWarp, roi_align, roi_pool, roi_warp
from .position_sensitive import PSRoIAlign, PSRoIPool, PSRoIWarp, ps_roi_align, ps_roi_pool, ps_roi_warp
from .rle import masks_to_rle
from .roi_op import RoIOp
from .switches import PRESETS, Switches
from .winograd import (
    conv3x3,
    conv3x3_input_gradient,
    conv3x3_weight_gradient,
    winograd_is_available,
)

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
    "conv3x3",
    "conv3x3_input_gradient",
    "conv3x3_weight_gradient",
    "masks_to_rle",
    "ps_roi_align",
    "ps_roi_pool",
    "ps_roi_warp",
    "roi_align",
    "roi_pool",
    "roi_warp",
    "winograd_is_available",
]
