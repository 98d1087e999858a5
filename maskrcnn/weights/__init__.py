"""Published weights into our models, with the conventions they were trained with, and back out."""

from maskrcnn.weights.torchvision import from_torchvision, to_torchvision

__all__ = ["from_torchvision", "to_torchvision"]
