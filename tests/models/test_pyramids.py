"""The pyramid against torchvision's, weights copied."""

import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from maskrcnn.models.pyramids import FPN, SingleMap


def stages() -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        stride: torch.randn(2, channels, 160 // stride, 96 // stride, generator=generator)
        for stride, channels in ((4, 8), (8, 12), (16, 16), (32, 20))
    }


def test_fpn_equals_torchvisions() -> None:
    ours = FPN([8, 12, 16, 20], 6)
    theirs = FeaturePyramidNetwork([8, 12, 16, 20], 6, extra_blocks=LastLevelMaxPool())
    for level in range(4):
        theirs.inner_blocks[level][0].load_state_dict(ours.lateral[level].state_dict())
        theirs.layer_blocks[level][0].load_state_dict(ours.output[level].state_dict())
    expected = theirs({str(stride): feature for stride, feature in stages().items()})
    found = ours(stages())
    assert sorted(found) == [4, 8, 16, 32, 64]
    for stride, (_, feature) in zip(sorted(found), expected.items(), strict=True):
        torch.testing.assert_close(found[stride], feature)


def test_single_map_is_the_coarsest() -> None:
    maps = stages()
    assert {stride: id(f) for stride, f in SingleMap(20)(maps).items()} == {32: id(maps[32])}
