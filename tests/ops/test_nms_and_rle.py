"""Suppression against torchvision's, masks to RLE against torchvision's paste and pycocotools' encoding."""

import numpy as np
import pytest
import torch
from maskrcnn_ops import batched_nms, masks_to_rle
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import batched_nms as tv_batched_nms


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_decisions_equal_torchvisions(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 200, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + torch.rand(3, 200, 2, generator=generator) * 30], -1)
    scores = torch.randn(3, 200, generator=generator)
    groups = torch.randint(0, 3, (3, 200), generator=generator)
    scores[torch.rand(3, 200, generator=generator) < 0.1] = -torch.inf
    keep = batched_nms(boxes, scores, groups, threshold)
    for n in range(3):
        usable = (scores[n] > -torch.inf).nonzero().flatten()
        theirs = usable[tv_batched_nms(boxes[n][usable], scores[n][usable], groups[n][usable], threshold)]
        assert sorted(theirs.tolist()) == keep[n].nonzero().flatten().tolist()


def test_ties_and_nothing() -> None:
    same = torch.tensor([[[0.0, 0, 10, 10]] * 3])
    assert batched_nms(same, torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.int64), 0.5).tolist() == [
        [True, False, False]
    ]
    assert batched_nms(
        torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64), 0.5
    ).shape == (2, 0)
    with pytest.raises(ValueError, match="scores"):
        batched_nms(same, torch.ones(1, 2), torch.zeros(1, 3, dtype=torch.int64), 0.5)


@pytest.mark.parametrize("seed", range(30))
def test_rle_strings_equal_paste_and_encode(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    height, width = (int(x) for x in torch.randint(20, 120, (2,), generator=generator))
    smooth = torch.nn.functional.interpolate(
        torch.rand(8, 1, 5, 5, generator=generator), (28, 28), mode="bilinear"
    )
    corner = torch.rand(8, 2, generator=generator) * 100 - 20
    size = torch.tensor([0.5, 1, 3, 10, 28, 40, 90, 200])[:, None] * (
        0.5 + torch.rand(8, 2, generator=generator)
    )
    limit = torch.tensor([width, height])
    # torchvision fails on boxes that lie wholly outside of the image.
    boxes = torch.cat([torch.minimum(corner, limit - 2), torch.maximum(corner + size, torch.ones(8, 2))], 1)
    pasted = paste_masks_in_image(smooth, boxes, (height, width))[:, 0] > 0.5
    found = masks_to_rle(smooth[:, 0], boxes, height, width)
    for mask, rle in zip(pasted.numpy(), found, strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": [height, width], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("far", [1e4, 4e9, 1e12])
def test_a_box_far_beyond_the_image_covers_it(far: float) -> None:
    """The image is a dot in the middle of a mask that is 1 there; pixels are counted from the box's far corner."""
    probs, box = torch.ones(1, 28, 28), torch.tensor([[-far, -far, far, far]])
    (rle,) = masks_to_rle(probs, box, 20, 30)
    assert coco_mask.area({"size": rle["size"], "counts": rle["counts"].encode()}) == 600
    beside = torch.tensor([[-far, -far, -far / 2, far]])
    (rle,) = masks_to_rle(probs, beside, 20, 30)
    assert coco_mask.area({"size": rle["size"], "counts": rle["counts"].encode()}) == 0
