"""Suppression against torchvision's, masks to RLE against torchvision's paste and pycocotools' encoding."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from maskrcnn_ops import batched_nms, masks_to_rle, rle
from maskrcnn_ops import nms as reference_nms
from maskrcnn_ops.kernels import CPU
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


def test_arguments_on_another_device_are_refused() -> None:
    boxes, scores, groups = torch.zeros(1, 3, 4), torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="scores: expected on cpu like the boxes, found on meta"):
        batched_nms(boxes, scores.to("meta"), groups, 0.5)
    with pytest.raises(ValueError, match="groups: expected on cpu like the boxes, found on meta"):
        batched_nms(boxes, scores, groups.to("meta"), 0.5)


def loop_nms(
    boxes: np.ndarray, order: np.ndarray, groups: np.ndarray, valid: np.ndarray, threshold: float
) -> list[int]:
    """Greedy suppression of one image, box by box."""
    kept: list[int] = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for k in order:
        if not valid[k]:
            continue
        rivals = np.array([r for r in kept if groups[r] == groups[k]], dtype=np.int64)
        low, high = np.maximum(boxes[rivals, :2], boxes[k, :2]), np.minimum(boxes[rivals, 2:], boxes[k, 2:])
        shared = np.maximum(high - low, 0).prod(1)
        with np.errstate(invalid="ignore"):
            overlap = shared / (area[rivals] + area[k] - shared)
        if not (overlap.astype(np.float64) > threshold).any():
            kept.append(int(k))
    return sorted(kept)


@pytest.mark.parametrize("pairs", [1, 500, 1 << 22])  # one box at a time, blocks, all at once
@pytest.mark.parametrize("count", [0, 1, 2, 40, 150])
def test_the_reference_is_the_greedy_loop(monkeypatch: pytest.MonkeyPatch, count: int, pairs: int) -> None:
    """With equal scores, equal and empty boxes, chains of overlaps, coordinates that are NaN, and entries that do not
    count."""
    monkeypatch.setattr(reference_nms, "PAIRS", pairs)
    generator = torch.Generator().manual_seed(count)
    corner = torch.randint(0, 12, (3, count, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(0, 6, (3, count, 2), generator=generator)], -1)
    boxes[2, :, 0], boxes[2, :, 2] = torch.arange(count) * 0.4, torch.arange(count) * 0.4 + 2  # a chain
    boxes[:, 3::19, 2] = torch.nan
    scores = torch.randint(0, 9, (3, count), generator=generator).float()
    scores[:, 1::7] = -torch.inf
    order, valid = scores.argsort(dim=1, descending=True, stable=True), scores > -torch.inf
    groups = torch.randint(0, 2, (3, count), generator=generator)
    for threshold in (0.0, 0.3, 0.5, 1.0):
        keep = reference_nms.nms(boxes, order, groups, valid, threshold)
        assert torch.equal(keep, torch.ops.maskrcnn_ops.nms(boxes, order, groups, valid, threshold))
        for n in range(3):
            image = (t[n].numpy() for t in (boxes, order, groups, valid))
            assert keep[n].nonzero().flatten().tolist() == loop_nms(*image, threshold)


@pytest.mark.parametrize("seed", range(60))
def test_rle_strings_equal_paste_and_encode(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    height, width = (int(x) for x in torch.randint(20, 120, (2,), generator=generator))
    side, threshold = (28, 5, 14, 31, 56, 95)[seed % 6], (0.5, 0.2, 0.5, 0.9, 0.5)[seed % 5]
    smooth = torch.nn.functional.interpolate(
        torch.rand(8, 1, 5, 5, generator=generator), (side, side), mode="bilinear"
    )
    if seed % 4 == 3:
        smooth = (smooth * 8).round() / 8  # much of it on the threshold, and much of it level
    corner = torch.rand(8, 2, generator=generator) * 100 - 20
    size = torch.tensor([0.5, 1, 3, 10, 28, 40, 90, 200])[:, None] * (
        0.5 + torch.rand(8, 2, generator=generator)
    )
    limit = torch.tensor([width, height])
    # torchvision fails on boxes that lie wholly outside of the image.
    boxes = torch.cat([torch.minimum(corner, limit - 2), torch.maximum(corner + size, torch.ones(8, 2))], 1)
    pasted = paste_masks_in_image(smooth, boxes, (height, width))[:, 0] > threshold
    found = masks_to_rle(smooth[:, 0], boxes, height, width, threshold)
    for mask, one in zip(pasted.numpy(), found, strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert one == {"size": [height, width], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("turned_round", [False, True])
def test_pixels_in_doubt_are_decided_by_torchs_resampling(
    monkeypatch: pytest.MonkeyPatch, turned_round: bool
) -> None:
    """Many are, with a wide margin of doubt; where the kernel's own decision is not torch's the mask is made anew."""
    if not CPU.compiled:
        pytest.skip("needs the compiled CPU kernels: without them, torch's resampling decides every pixel")
    monkeypatch.setattr(rle, "DOUBT", 5e-4)
    kernel, close = rle._encoded, []

    def encoded(*args: Any) -> tuple[list[str], list[list[int]]]:
        texts, pixels = kernel(*args)
        close.extend(pixels)
        if turned_round:
            texts = [text[:-1] for text in texts] if pixels else texts
            pixels = [[*place, 1 - above] for *place, above in pixels]
        return texts, pixels

    monkeypatch.setattr(rle, "_encoded", encoded)
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(8, 1, 5, 5, generator=generator), (28, 28), mode="bilinear"
    )
    corner = torch.rand(8, 2, generator=generator) * 60 - 40
    boxes = torch.cat([corner, corner + 60 + torch.rand(8, 2, generator=generator) * 60], 1)
    pasted = paste_masks_in_image(smooth, boxes, (80, 100))[:, 0] > 0.5
    found = masks_to_rle(smooth[:, 0], boxes, 80, 100)
    assert len({d for d, *_ in close}) >= 4
    assert {above for *_, above in close} == {0, 1}
    for mask, one in zip(pasted.numpy(), found, strict=True):
        assert one["counts"] == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("threshold", [0.5, 0.0, 0.05])
@pytest.mark.parametrize("side", [14, 28, 56])
def test_rle_of_saturated_masks(side: int, threshold: float) -> None:
    """Between 0 and 1 within a cell a weight of the resampling that is rounded otherwise moves the border."""
    generator = torch.Generator().manual_seed(side)
    logits = torch.nn.functional.interpolate(
        torch.randn(300, 1, 5, 5, generator=generator), (side, side), mode="bilinear"
    )
    masks = (logits * 200).sigmoid() if threshold else logits.clamp(0, 1)
    masks[:2], masks[0, 0, side // 2 :] = 0, 1 - 6e-7
    corner = torch.rand(300, 2, generator=generator) * 60 - 20
    boxes = torch.cat([corner, corner + 22 + torch.rand(300, 2, generator=generator) * 150], 1)
    boxes[0] = torch.tensor([10, 10, 20, 15.5])
    pasted = paste_masks_in_image(masks, boxes, (90, 110))[:, 0] > threshold
    for mask, one in zip(pasted.numpy(), masks_to_rle(masks, boxes, 90, 110, threshold), strict=True):
        assert one["counts"] == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("compiled", [True, False])
def test_a_huge_box_of_values_on_the_threshold(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Its pixels are decided without an image of its size; the border between the halves lies in the middle."""
    if not compiled:
        monkeypatch.setattr(rle, "CPU", replace(CPU, compiled=False))
    probs = torch.full((1, 28, 28), 0.5)
    probs[:, :, 14:] = 0.75
    (one,) = masks_to_rle(probs, torch.tensor([[-3e5, -3e5, 3e5, 3e5]]) + 20, 40, 60)
    bitmap = coco_mask.decode({"size": one["size"], "counts": one["counts"].encode()})
    # Half way between two cells, which are 20,000 pixels wide, the value is 0.625.
    assert bitmap.all()
    (one,) = masks_to_rle(probs - 0.125, torch.tensor([[-3e5, -3e5, 3e5, 3e5]]) + 20, 40, 60)
    bitmap = coco_mask.decode({"size": one["size"], "counts": one["counts"].encode()})
    assert bitmap[:, 22:].all()
    assert not bitmap[:, :18].any()


def test_arguments_that_are_not_masks_or_sizes_are_refused() -> None:
    probs, boxes = torch.rand(1, 28, 28), torch.tensor([[0.0, 0, 9, 9]])
    for height in (0, -3, 20.5, "a"):
        with pytest.raises(ValueError, match="height: expected a whole number of at least 1"):
            masks_to_rle(probs, boxes, height, 30)  # type: ignore[arg-type]
    for shape in [(1, 0, 0), (1, 28, 14), (28, 28)]:
        with pytest.raises(ValueError, match=r"probs: expected \[D, M, M\]"):
            masks_to_rle(torch.rand(shape), boxes, 20, 30)
    (one,) = masks_to_rle(probs, boxes, np.int64(20), np.int64(30))  # type: ignore[arg-type]
    json.dumps(one)


@pytest.mark.parametrize("far", [1e4, 4e9, 1e12, 5e18, 1e30])
def test_a_box_far_beyond_the_image_covers_it(far: float) -> None:
    """The image is a dot in the middle of a mask that is 1 there; pixels are counted from the box's far corner."""
    probs, box = torch.ones(1, 28, 28), torch.tensor([[-far, -far, far, far]])
    (one,) = masks_to_rle(probs, box, 20, 30)
    assert coco_mask.area({"size": one["size"], "counts": one["counts"].encode()}) == 600
    beside = torch.tensor([[-far, -far, -far / 2, far]])
    (one,) = masks_to_rle(probs, beside, 20, 30)
    assert coco_mask.area({"size": one["size"], "counts": one["counts"].encode()}) == 0
    (one,) = masks_to_rle(probs, torch.full((1, 4), torch.nan), 20, 30)
    assert coco_mask.area({"size": one["size"], "counts": one["counts"].encode()}) == 0
