"""Draws what each augmentation makes of generated images: `python examples/draw_augmentations.py augmentation.jpg`."""

from __future__ import annotations

import sys

import cv2
import numpy as np

from maskrcnn.data import augmentations as a
from maskrcnn.data.formats.shapes import Shapes
from maskrcnn.data.transforms import Transform
from maskrcnn.prediction.draw import as_annotations, draw_results, sheet, visible

CHOICES = {
    "none": [],
    "Flip": [a.Flip(horizontal=1.0)],
    "QuarterTurns": [a.QuarterTurns()],
    "Affine": [a.Affine(degrees=30, shear=15)],
    "ScaleJitter": [a.ScaleJitter(0.5, 2.0)],
    "Crop": [a.Crop(smallest=0.4)],
    "Colour": [a.Colour(0.5, 0.5, 0.5, 0.2)],
    "Blur": [a.Blur((2.0, 2.0), probability=1.0)],
    "Noise": [a.Noise(40, probability=1.0)],
    "CopyPaste": [a.CopyPaste(probability=1.0)],
    "Mosaic": [a.Mosaic(probability=1.0)],
    "strong": "strong",
}


def main(out: str) -> None:
    """Write one picture of all choices, four to a row."""
    dataset = Shapes("data/shapes", num_train=40, num_val=1).train()
    names = {int(c["id"]): str(c["name"]) for c in dataset.categories}
    pictures = []
    for title, augmentations in CHOICES.items():
        transform = Transform(short_side=256, augmentations=augmentations)
        sample = transform(dataset.read(0), np.random.default_rng(4), a.Others.of(dataset))
        picture = draw_results(visible(sample), as_annotations(sample, dataset.category_ids), names)
        picture = np.pad(picture, ((26, 0), (0, 0), (0, 0)), constant_values=255)
        pictures.append(
            cv2.putText(picture, title, (4, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
        )
    cv2.imwrite(out, sheet(pictures, columns=4, width=256)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])


if __name__ == "__main__":
    main(sys.argv[1])
