"""Augmentations of training images, for the list ``augmentations`` of a `Transform`."""

from maskrcnn.data.augmentations.adapters import FromAlbumentations as FromAlbumentations
from maskrcnn.data.augmentations.adapters import FromTorchvision as FromTorchvision
from maskrcnn.data.augmentations.geometry import Affine as Affine
from maskrcnn.data.augmentations.geometry import Crop as Crop
from maskrcnn.data.augmentations.geometry import Flip as Flip
from maskrcnn.data.augmentations.geometry import QuarterTurns as QuarterTurns
from maskrcnn.data.augmentations.geometry import ScaleJitter as ScaleJitter
from maskrcnn.data.augmentations.mixing import CopyPaste as CopyPaste
from maskrcnn.data.augmentations.mixing import Mosaic as Mosaic
from maskrcnn.data.augmentations.pixels import Blur as Blur
from maskrcnn.data.augmentations.pixels import Colour as Colour
from maskrcnn.data.augmentations.pixels import Noise as Noise
from maskrcnn.data.augmentations.presets import PRESETS as PRESETS
from maskrcnn.data.augmentations.protocol import Augmentation as Augmentation
from maskrcnn.data.augmentations.protocol import Others as Others
