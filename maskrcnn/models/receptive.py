"""Measures the effective receptive field of the cells of a feature map (Luo et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of the cells of one map, in cells of that map.

    Args:
        shift: x and y of its centre of mass relative to the middle of the cell's block of stride x stride pixels;
            positive is right and down.
        error: standard errors of ``shift``, from its spread over the directions.
        spread: standard deviation of the weight around its centre, the mean of both axes.
        weight: ``[H, W]``, each pixel's share. The block begins at pixel ``H / 2, W / 2``.
    """

    shift: tuple[float, float]
    error: tuple[float, float]
    spread: float
    weight: Tensor

    @property
    def offset(self) -> float:
        """The value of the switch `offset` that places cell c at the centre of its receptive field, in cells."""
        return 0.5 + sum(self.shift) / 2


def receptive_field(
    backbone: nn.Module, stride: int, side: int = 512, directions: int = 16, seed: int = 0
) -> ReceptiveField:
    """Measure the effective receptive field of the middle cell of a backbone's map.

    The input is a noise image. The weight of a pixel is the squared gradient of the cell, projected onto a random
    direction of its channels, with respect to the pixel. The network runs in evaluation mode and is left unchanged, as
    is torch's random state.

    Args:
        backbone: see `maskrcnn.models.protocols.Backbone`.
        stride: stride of the map.
        side: side of the square image in pixels, a multiple of 64.
        directions: number of images and random directions to average over, two or more.
        seed: seed of the images and directions.

    Returns:
        The field, averaged over ``directions``.

    Raises:
        UserError: the backbone has no map of that stride.
    """
    was_training = backbone.training
    generator = torch.Generator().manual_seed(seed)
    parameter = next(backbone.parameters())
    backbone.eval()
    try:
        weights = [_weights(backbone, stride, side, generator, parameter) for _ in range(directions)]
    finally:
        backbone.train(was_training)
    weight = torch.stack([w / w.sum() for w in weights])  # [directions, side, side]
    middle = side // stride // 2 * stride + stride / 2
    places = (torch.arange(side, dtype=torch.float64) + 0.5 - middle) / stride
    profiles = torch.stack([weight.sum(1), weight.sum(2)], 1)  # [directions, 2, side], along x and along y
    centres = profiles @ places
    mean, error = centres.mean(0), centres.std(0) / directions**0.5
    variance = (profiles.mean(0) * (places - mean[:, None]) ** 2).sum(1)
    (x, y), (error_x, error_y) = mean.tolist(), error.tolist()
    return ReceptiveField((x, y), (error_x, error_y), float(variance.sqrt().mean()), weight.mean(0))


def _weights(backbone: nn.Module, stride: int, side: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Squared gradient ``[side, side]`` float64 of the middle cell in a random direction, summed over colours."""
    channels = int(backbone.in_channels)  # type: ignore[arg-type]
    pixels = torch.randn(1, channels, side, side, generator=generator).to(like).requires_grad_()
    with torch.enable_grad():
        maps: dict[int, Tensor] = backbone(pixels)
        if stride not in maps:
            raise UserError(
                f"stride={stride}: the backbone has maps of the strides {', '.join(map(str, maps))}"
            )
        cell = side // stride // 2
        features = maps[stride][0, :, cell, cell]
        direction = torch.randn(len(features), generator=generator).to(features)
        (gradient,) = torch.autograd.grad((features * direction).sum(), pixels)
    return gradient[0].double().square().sum(0).cpu()
