"""The RoI operators as graphs hold them, against the operators themselves."""

from __future__ import annotations

import pytest
import torch
from maskrcnn_ops import PRESETS, RoIOp

from maskrcnn.errors import UserError
from maskrcnn.export.operators import ExportedRoIOp


def features_and_boxes(channels: int = 3) -> tuple[dict[int, torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = {s: torch.randn(2, channels, 256 // s, 320 // s, generator=generator) for s in (4, 8, 16, 32)}
    corner = torch.rand(2, 40, 2, generator=generator) * torch.tensor([320.0, 256.0]) - 8
    size = torch.rand(2, 40, 2, generator=generator) ** 3 * 400
    boxes = torch.cat([corner, corner + size], -1)
    boxes[0, 0] = torch.tensor([-30.0, -30, -10, -10])  # outside
    boxes[0, 1] = torch.tensor([300.0, 240, 420, 400])  # beyond the edge
    boxes[0, 2] = 0.0
    return features, boxes, torch.rand(2, 40, generator=generator) > 0.2


SWITCHES: list[dict[str, object]] = [
    {"reduction": "max"},
    {"sample_position": "corner"},
    {"sample_position": "thirds"},
    {"border": "mnc"},
    {"border": "inner"},
    {"sampling_ratio": -1},
    {"sampling_ratio": 1, "plus_one": True},
    {"box_rounding": "round", "min_width": 0, "reduction": "max", "sampling_ratio": 3},
]
OPERATORS = {name: RoIOp.preset(name) for name in PRESETS if not name.startswith("ps_pool")} | {
    " ".join(f"{k}={v}" for k, v in s.items()): RoIOp(**s)  # type: ignore[arg-type]
    for s in SWITCHES
}


@pytest.mark.parametrize("name", OPERATORS)
def test_exported_operators_are_the_operators(name: str) -> None:
    for size in (7, 14):
        channels = size * size if OPERATORS[name].position_sensitive else 3
        features, boxes, valid = features_and_boxes(channels)
        expected = OPERATORS[name](features, boxes, valid, size)
        found = ExportedRoIOp(OPERATORS[name])(features, boxes, valid, size)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert (expected != 0).any()


def test_what_no_graph_holds_is_refused() -> None:
    for switches, words in (
        ({"bin_rounding": True}, "only roi_op=pool can be exported"),
        ({"bin_rounding": True, "position_sensitive": True}, "only roi_op=pool can be exported"),
        ({"sampling_ratio": -1, "reduction": "max"}, "give the number of samples"),
    ):
        with pytest.raises(UserError, match=words):
            ExportedRoIOp(RoIOp(**switches))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the RoI operator function cannot be exported"):
        ExportedRoIOp(features_and_boxes)
