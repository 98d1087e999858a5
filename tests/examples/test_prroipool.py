"""The worked example against many samples of RoIAlign, numerical derivatives."""

from __future__ import annotations

from dataclasses import replace

import torch
from maskrcnn_ops import RoIOp

from examples.prroipool import PrRoIPool, bin_weights


def maps_and_boxes() -> tuple[dict[int, torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = {s: torch.randn(2, 3, 256 // s, 320 // s, generator=generator).double() for s in (8, 16)}
    corner = 20 + torch.rand(2, 6, 2, generator=generator).double() * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(2, 6, 2, generator=generator).double() * 140], -1)
    valid = torch.rand(2, 6, generator=generator) > 0.2
    return maps, boxes, valid


def test_is_the_limit_of_many_samples() -> None:
    maps, boxes, valid = maps_and_boxes()
    many = replace(RoIOp.preset("align"), sampling_ratio=200)
    found = PrRoIPool()(maps, boxes, valid, 3)
    assert found.shape == (12, 3, 3, 3)
    torch.testing.assert_close(found, many(maps, boxes, valid, 3), atol=2e-4, rtol=0)


def test_shares_of_a_bin_inside_the_map_add_up_to_one() -> None:
    low, high = torch.tensor([1.2, 3.0]), torch.tensor([6.9, 3.5])
    torch.testing.assert_close(bin_weights(low, high, 4, 10).sum(-1), torch.ones(2, 4))


def test_gradients_of_features_and_boxes() -> None:
    maps, boxes, valid = maps_and_boxes()
    maps = {s: m[:, :1, :12, :12].clone().requires_grad_() for s, m in maps.items()}

    def pooled(fine: torch.Tensor, coarse: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return PrRoIPool()({8: fine, 16: coarse}, boxes, valid, 2)

    assert torch.autograd.gradcheck(pooled, (maps[8], maps[16], boxes.requires_grad_()))
