"""One file cut into parts: every image is validated on once, and never trained on then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maskrcnn.data.formats.coco import CocoFolds
from maskrcnn.errors import UserError

Write = Callable[..., tuple[Path, Path]]


def annotation(number: int, image_id: int) -> dict[str, object]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 3,
        "bbox": [1, 2, 10, 12],
        "area": 120,
        "iscrowd": 0,
    }


def test_each_image_is_in_one_fold_and_scored_there_alone(write_coco: Write) -> None:
    some = [annotation(n, 1 + n % 7) for n in range(1, 15)]
    annotations, images = write_coco(some, ((20, 30),) * 7)
    seen: list[int] = []
    for fold in range(3):
        source = CocoFolds(str(annotations), str(images), folds=3, fold=fold)
        train, val = source.train(), source.val()
        learned = {train.image_id(i) for i in range(len(train))}
        tested = [val.image_id(i) for i in range(len(val))]
        assert learned | set(tested) == set(range(1, 8))
        assert not learned & set(tested)
        truth = val.ground_truth()
        assert [image["id"] for image in truth["images"]] == sorted(tested)
        assert len(truth["annotations"]) == 2 * len(tested)
        assert {a["image_id"] for a in truth["annotations"]} == set(tested)
        seen += tested
    assert sorted(seen) == list(range(1, 8))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fold": 3, "folds": 3}, "data.fold=3: with data.folds=3 it is 0 to 2"),
        ({"folds": 9}, "data.folds=9: expected 2 to 3, the number of images"),
        ({"folds": 1}, "data.folds=1: expected 2 to 3"),
    ],
)
def test_wrong_folds_are_refused(write_coco: Write, given: dict[str, int], words: str) -> None:
    annotations, images = write_coco([annotation(1, 1)])
    with pytest.raises(UserError, match=words):
        CocoFolds(str(annotations), str(images), **given).train()


def test_missing_paths_are_asked_for() -> None:
    with pytest.raises(UserError, match=r"data=folds needs data.annotations=FILE"):
        CocoFolds(None, None).val()
