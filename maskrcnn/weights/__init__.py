"""Published weights into our models, with the conventions they were trained with, and back out."""

from maskrcnn.weights.detectron2 import from_detectron2
from maskrcnn.weights.files import read_weights
from maskrcnn.weights.published import translated
from maskrcnn.weights.torchvision import from_torchvision, to_torchvision

__all__ = ["from_detectron2", "from_torchvision", "read_weights", "to_torchvision", "translated"]
