"""Interfaces of the parts that users can replace. A class implements one by having its methods."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Backbone(Protocol):
    """A network that computes feature maps of images. It is also an ``nn.Module``.

    Attributes:
        channels: number of channels of each map, by stride, finest first.
        in_channels: number of channels of the images.
    """

    channels: dict[int, int]
    in_channels: int

    def __call__(self, pixels: Tensor) -> dict[int, Tensor]:
        """Compute the maps.

        Args:
            pixels: ``[N, in_channels, H, W]``, normalised. H and W are multiples of 32.

        Returns:
            Maps ``[N, channels[l], H/l, W/l]`` by stride l.
        """
        ...


@runtime_checkable
class RoIOp(Protocol):
    """A RoI operator: pools the features inside boxes. ``maskrcnn_ops.RoIOp`` is this project's family of operators."""

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        """Pool every box.

        Args:
            features: maps ``[N, C, H, W]`` by stride.
            boxes: ``[N, K, 4]`` x1, y1, x2, y2 in pixels of the network's input.
            valid: ``[N, K]`` bool, False for padding.
            output_size: P, bins per side.

        Returns:
            ``[N * K, C, P, P]``, zeros for padding.
        """
        ...


@runtime_checkable
class MaskLoss(Protocol):
    """A loss on the maps of a mask head, and how to read a mask from them. ``maskrcnn.models.losses`` has three."""

    def num_maps(self, num_classes: int) -> int:
        """Number of maps that the predictor has for ``num_classes`` classes."""
        ...

    def __call__(self, logits: Tensor, masks: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Compute the loss, summed over the cells of the chosen regions.

        Args:
            logits: ``[R, num_maps, M, M]``.
            masks: ``[R, M, M]``, the share of each cell that belongs to the object, 0 to 1.
            labels: ``[R]`` int64, the objects' classes.
            chosen: ``[R]`` bool, the regions that count.

        Returns:
            A scalar.
        """
        ...

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute mask probabilities.

        Args:
            logits: ``[R, num_maps, M, M]``.
            labels: ``[R]`` int64, the predicted classes.

        Returns:
            ``[R, M, M]``.
        """
        ...
