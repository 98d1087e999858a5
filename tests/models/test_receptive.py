"""The effective receptive field against networks whose field is known."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.resnet import ResNet
from maskrcnn.models.receptive import receptive_field


class Boxes(nn.Module):
    """One convolution of kernel and stride 16 with all weights 1, whose input is shifted by whole pixels."""

    in_channels = 3
    channels: ClassVar = {16: 2}

    def __init__(self, right: int = 0, down: int = 0) -> None:
        super().__init__()
        self.shift = (right, down)
        self.conv = nn.Conv2d(3, 2, 16, 16)
        nn.init.ones_(self.conv.weight)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        right, down = self.shift
        return {16: self.conv(pixels.roll((-down, -right), (2, 3)))}


@pytest.mark.parametrize(("right", "down"), [(0, 0), (4, -8), (-16, 2)])
def test_a_convolution_that_sees_its_block_alone(right: int, down: int) -> None:
    field = receptive_field(Boxes(right, down), 16, side=128, directions=3)
    assert field.shift == pytest.approx((right / 16, down / 16), abs=1e-9)
    assert field.error == pytest.approx((0, 0), abs=1e-9)
    assert field.spread == pytest.approx(((16**2 - 1) / 12) ** 0.5 / 16)  # of 16 equal pixels
    assert field.offset == pytest.approx(0.5 + (right + down) / 32)
    expected = torch.zeros(128, 128, dtype=torch.float64)
    expected[64 + down : 80 + down, 64 + right : 80 + right] = 1 / 256
    torch.testing.assert_close(field.weight, expected)


def test_symmetric_padding_looks_half_a_cell_to_the_upper_left() -> None:
    """A strided convolution with padding on both sides puts cell c over pixel c * stride: every stage does."""
    torch.manual_seed(0)
    backbone = ResNet("resnet18", last_stage=4).train()
    before = torch.get_rng_state()
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    field = receptive_field(backbone, 16, side=256, directions=4)
    assert all(-0.6 < shift < -0.35 for shift in field.shift)
    assert torch.equal(torch.get_rng_state(), before)
    assert backbone.training
    assert all(p.grad is None for p in backbone.parameters())
    torch.testing.assert_close(backbone.state_dict(), state, rtol=0, atol=0)


def test_a_stride_without_a_map_is_refused() -> None:
    with pytest.raises(UserError, match="16"):
        receptive_field(Boxes(), 32, side=128)
