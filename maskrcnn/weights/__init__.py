"""Converts published weights from and to our models, with the conventions that they were trained with."""

from maskrcnn.weights.detectron2 import from_detectron2
from maskrcnn.weights.files import read_weights
from maskrcnn.weights.published import translated
from maskrcnn.weights.torchvision import from_torchvision, to_torchvision

__all__ = ["from_detectron2", "from_torchvision", "read_weights", "to_torchvision", "translated"]
