"""Anchors against torchvision's generator and by hand."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from maskrcnn.models.anchors import Anchors


def maps(*shapes: tuple[int, int, int]) -> dict[int, torch.Tensor]:
    return {stride: torch.zeros(1, 1, height, width) for stride, height, width in shapes}


def test_equal_torchvisions_but_for_its_rounding() -> None:
    features = maps((4, 8, 12), (8, 4, 6))
    ours = torch.cat(Anchors([[32], [64]], (0.5, 1.0, 2.0), offset=0.0)(features))
    theirs = AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)(
        ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)]), list(features.values())
    )[0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 0.5  # torchvision rounds the corners to whole pixels
    assert torch.equal((ours - theirs).sum(-1).round(decimals=3), torch.zeros(len(ours)))  # same centres


def test_one_anchor_by_hand() -> None:
    anchors = Anchors([[16]], (4.0,))(maps((8, 2, 2)))[0]
    expected = [[0, -12, 8, 20], [8, -12, 16, 20], [0, -4, 8, 28], [8, -4, 16, 28]]  # 8 wide, 32 high
    torch.testing.assert_close(anchors, torch.tensor(expected, dtype=torch.float32))


def test_uneven_sizes_and_missing_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="same number"):
        Anchors([[16], [32, 64]])
    with pytest.raises(ValueError, match="2 levels"):
        Anchors([[16], [32]])(maps((8, 2, 2)))
