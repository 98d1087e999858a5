"""Torchvision-style samples: what is read from them, and every fault named with its index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from maskrcnn.data.adapter import TorchvisionDataset, adapt
from maskrcnn.errors import UserError

NAN = float("nan")


def target(**changes: Any) -> dict[str, Any]:
    """Two objects in an image of 20 x 30 pixels; None takes a key away."""
    masks = torch.zeros(2, 20, 30, dtype=torch.uint8)
    masks[0, 2:10, 3:9] = 1
    masks[1, 4:18, 12:28] = 1
    whole = {
        "boxes": torch.tensor([[3.0, 2, 9, 10], [12, 4, 28, 18]]),
        "labels": torch.tensor([1, 3]),
        "masks": masks,
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


def image() -> torch.Tensor:
    return torch.arange(3 * 20 * 30, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(3, 20, 30)


def dataset(*samples: Any) -> TorchvisionDataset:
    return TorchvisionDataset(list(samples), 3)


PIXELS = image().numpy().transpose(1, 2, 0)


@pytest.mark.parametrize(
    "given",
    [
        image(),
        image().float() / 255,
        image().double() / 255,
        PIXELS,
        Image.fromarray(PIXELS),
        tv_tensors.Image(image()),
    ],
    ids=["uint8", "float32", "float64", "array", "PIL", "tv_tensor"],
)
def test_images_of_every_kind_are_the_same_pixels(given: Any) -> None:
    read = dataset((given, target())).read(0)
    assert read.image.dtype == np.uint8
    assert np.array_equal(read.image, PIXELS)
    assert read.image.flags["C_CONTIGUOUS"]


def test_objects_are_those_of_the_target() -> None:
    data = dataset((image(), target()))
    read = data.read(0)
    assert read.boxes.tolist() == [[3, 2, 9, 10], [12, 4, 28, 18]]
    assert read.labels.tolist() == [0, 2]
    assert read.crowd.tolist() == [False, False]
    for mask, given in zip(read.masks, target()["masks"], strict=True):
        assert mask is not None
        assert np.array_equal(mask.full(20, 30), given.numpy())
    assert data.has_masks
    assert data.category_ids == [1, 2, 3]


def test_ground_truth_is_cocos() -> None:
    crowd = target(iscrowd=torch.tensor([0, 1]), area=torch.tensor([48.0, 7.0]), image_id=torch.tensor([70]))
    truth = dataset((image(), target()), (image(), crowd)).ground_truth()
    assert [(i["id"], i["height"], i["width"]) for i in truth["images"]] == [(0, 20, 30), (70, 20, 30)]
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3, 4]
    assert [a["area"] for a in truth["annotations"]] == [48, 14 * 16, 48, 7]
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 0, 1]
    assert [a["category_id"] for a in truth["annotations"]] == [1, 3, 1, 3]
    assert truth["annotations"][1]["bbox"] == [12, 4, 16, 14]


def test_an_image_without_objects_is_read() -> None:
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    data = dataset((image(), target()), (image(), {**empty, "masks": torch.zeros(0, 20, 30)}))
    assert data.read(1).boxes.shape == (0, 4)
    assert len(data.ground_truth()["annotations"]) == 2


def boxes(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([[3.0, 2, 9, 10], *rows])


FAULTS = [
    (target(boxes=None), "its target has no 'boxes'; it has labels, masks"),
    (target(labels=None), "its target has no 'labels'"),
    (target(masks=None), "its target has no 'masks', but that of sample 0 has"),
    (target(labels=torch.tensor([1, 0])), "label 0 is the background; count the classes from 1"),
    (target(labels=torch.tensor([1, -4])), "label -4: labels begin at 1"),
    (target(labels=torch.tensor([1, 4])), "label 4, but the model has num_classes=3"),
    (target(labels=torch.tensor([1.0, 2.0])), "labels are integers, found torch.float32"),
    (target(labels=torch.tensor([1])), r"labels are \[2\], one for each box, found \[1\]"),
    (target(boxes=boxes([12, 4, 31, 18])), r"box 1 .*leaves the image of width 30 and height 20"),
    (target(boxes=boxes([-1, 4, 28, 18])), "box 1 .*leaves the image"),
    (target(boxes=boxes([12, 4, 12, 18])), r"box 1 .*is empty; expected x1 < x2 and y1 < y2"),
    (target(boxes=boxes([12, 18, 28, 4])), "box 1 .*is empty"),
    (target(boxes=boxes([12, NAN, 28, 18])), "box 1 .*is not finite"),
    (target(boxes=boxes([12, 4, float("inf"), 18])), "box 1 .*is not finite"),
    (target(boxes=torch.ones(2, 5)), r"boxes are \[G, 4\], found \[2, 5\]"),
    (target(boxes=torch.ones(2, 4, dtype=torch.bool)), "boxes are numbers, found torch.bool"),
    (target(boxes="everything"), "boxes cannot be read as a tensor"),
    (
        target(boxes=tv_tensors.BoundingBoxes([[3, 2, 6, 8]] * 2, format="XYWH", canvas_size=(20, 30))),
        "found the format XYWH",
    ),
    (target(masks=torch.ones(2, 30, 20)), r"masks are \[G, H, W\] = \[2, 20, 30\].*found \[2, 30, 20\]"),
    (target(masks=torch.ones(1, 20, 30)), r"masks are .*found \[1, 20, 30\]"),
    (target(masks=torch.ones(2, 20, 30)), "masks are bool or integers, found torch.float32"),
    (target(masks=torch.zeros(2, 20, 30, dtype=torch.bool)), "mask 0 is empty"),
    (target(iscrowd=torch.zeros(3)), r"iscrowd is \[2\]"),
    (target(area=torch.zeros(1)), r"area is \[2\]"),
    (target(image_id="street"), "image_id is an integer, found 'street'"),
    (target(image_id=0.5), "image_id is an integer"),
]


@pytest.mark.parametrize(("wrong", "words"), FAULTS)
def test_a_wrong_target_is_named_by_its_index(wrong: dict[str, Any], words: str) -> None:
    data = dataset((image(), target()), (image(), target()), (image(), wrong))
    data.read(1)
    with pytest.raises(UserError, match=f"sample 2 of the data set: .*{words}"):
        data.read(2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.zeros(20, 30, 3, dtype=torch.uint8), r"an image tensor is \[3, H, W\], found \[20, 30, 3\]"),
        (image().float(), r"values in 0\.\.1, found 0 to 250"),
        (image().float() / 255 - 0.5, r"values in 0\.\.1, found -0\.5"),
        (image().float() * NAN, r"values in 0\.\.1, found nan"),
        (image().int(), "found torch.int32"),
        (PIXELS.astype(np.float32), r"an image array is uint8 \[H, W, 3\], found float32"),
        ("street.jpg", "the image is a str"),
    ],
)
def test_a_wrong_image_is_named_by_its_index(wrong: Any, words: str) -> None:
    data = dataset((image(), target()), (wrong, target()))
    with pytest.raises(UserError, match=f"sample 1 of the data set: .*{words}"):
        data.read(1)


def test_what_is_no_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="needs __len__ and __getitem__, but generator lacks them"):
        adapt((i for i in range(3)), 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="its length is 0"):
        adapt([], 3)
    with pytest.raises(UserError, match=r"expected a pair \(image, target\)"):
        adapt([image()], 3)
    with pytest.raises(UserError, match="classes has 1 names, but the model has num_classes=3"):
        adapt([(image(), target())], 3, ["cat"])
    data = dataset((image(), target(image_id=5)), (image(), target(image_id=5)))
    with pytest.raises(UserError, match=r"sample 1 .*image_id 5 is that of sample 0, too"):
        data.ground_truth()


def test_aspects_are_known_where_the_data_set_says_them() -> None:
    class Sized(list[Any]):
        def get_height_and_width(self, index: int) -> tuple[int, int]:
            return 20, 30

    assert TorchvisionDataset(Sized([(image(), target())]), 3).sizes.tolist() == [[20, 30]]
