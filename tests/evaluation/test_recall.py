"""Recall counted image by image against pycocotools on all results at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maskrcnn.evaluation.recall import Recall, average_recall


def scene(seed: int) -> tuple[dict[str, Any], dict[int, np.ndarray], list[dict[str, Any]]]:
    """Annotations (of every size, touching, doubled, crowds), proposals near them by image, the same as results."""
    rng = np.random.default_rng(seed)
    annotations, proposals, results = [], {}, []
    for image_id in range(1, 9):
        low = rng.integers(0, 200, (image_id - 1, 2))
        truth = np.concatenate([low, rng.choice([10, 40, 60, 150], (len(low), 2))], 1).astype(float)
        truth = np.repeat(truth, 2, 0) if image_id == 5 else truth
        for box in truth.tolist():
            size = box[2] * box[3] * rng.choice([0.5, 1])
            crowd = int(rng.random() < 0.2)
            annotations.append(
                {"image_id": image_id, "category_id": 1, "bbox": box, "area": size, "iscrowd": crowd}
            )
        near = np.repeat(truth, 12, 0)
        near += rng.integers(-6, 7, near.shape) * rng.integers(0, 2, (len(near), 1))
        near = np.concatenate([near, rng.integers(1, 200, (5, 4))])[rng.permutation(len(near) + 5)]
        near[:, 2:] = near[:, 2:].clip(1)
        proposals[image_id] = np.concatenate([near[:, :2], near[:, :2] + near[:, 2:]], 1).astype(np.float32)
        results += [
            {"image_id": image_id, "category_id": 1, "bbox": box, "score": 1 - place / 1000}
            for place, box in enumerate(near.tolist())
        ]
    images = [{"id": image_id, "height": 400, "width": 400} for image_id in proposals]
    numbered = [{**entry, "id": number} for number, entry in enumerate(annotations, 1)]
    return (
        {"images": images, "annotations": numbered, "categories": [{"id": 1, "name": "a"}]},
        proposals,
        results,
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [3, 40])
def test_figures_are_pycocotools(seed: int, most: int) -> None:
    truth, proposals, results = scene(seed)
    recall = Recall(most)
    for image_id, boxes in proposals.items():
        recall.add(boxes, [a for a in truth["annotations"] if a["image_id"] == image_id])
    found, expected = recall.figures(), average_recall(results, truth, most, list(proposals))
    assert found == pytest.approx(expected)
    assert 0 < found[f"AR{most}"] <= found["AR50"]  # type: ignore[operator]


def test_sizes_that_do_not_occur_have_no_figure() -> None:
    recall = Recall(10)
    small = {"bbox": [0, 0, 10, 10], "area": 100}
    recall.add(np.zeros((0, 4), np.float32), [small, {**small, "area": 5e4, "iscrowd": 1}])
    assert recall.figures() == {"AR10": 0.0, "AR50": 0.0, "ARs": 0.0, "ARm": None, "ARl": None}
