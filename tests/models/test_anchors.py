"""Anchors against torchvision's generator and by hand."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from maskrcnn.errors import UserError
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


@pytest.mark.parametrize("canvas", [(96, 160), (128, 64)])
def test_with_its_rounding_and_spacing_equal_torchvisions(canvas: tuple[int, int]) -> None:
    """P6 of 96 x 160 has 2 x 3 places, 48 and 53 pixels apart there."""
    shapes = [(stride, -(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in (4, 8, 16, 32, 64)]
    features = maps(*shapes)
    sizes = [[24.0, 37.0], [64.0, 70.0], [128.0, 130.0], [256.0, 300.0], [511.0, 512.0]]
    ours = torch.cat(Anchors(sizes, (0.5, 1.0, 2.0), offset=0.0, rounded=True, spacing="map")(features))
    generator = AnchorGenerator(tuple(map(tuple, sizes)), ((0.5, 1.0, 2.0),) * 5)
    theirs = generator(ImageList(torch.zeros(1, 3, *canvas), [canvas]), list(features.values()))[0]
    assert torch.equal(ours, theirs)


def test_one_anchor_by_hand() -> None:
    anchors = Anchors([[16]], (4.0,))(maps((8, 2, 2)))[0]
    expected = [[0, -12, 8, 20], [8, -12, 16, 20], [0, -4, 8, 28], [8, -4, 16, 28]]  # 8 wide, 32 high
    torch.testing.assert_close(anchors, torch.tensor(expected, dtype=torch.float32))


def test_uneven_sizes_and_missing_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="same number"):
        Anchors([[16], [32, 64]])
    with pytest.raises(UserError, match="2 levels"):
        Anchors([[16], [32]])(maps((8, 2, 2)))
