"""A data set: images/NAME.png, and masks/NAME.png in which pixels of object i have the value i and all others 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from maskrcnn.data.adapter import adapt
from maskrcnn.data.dataset import Dataset as Images


class Folder(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Torchvision's ``(image, target)`` for each file of a folder. `maskrcnn.Trainer` accepts it unchanged."""

    def __init__(self, root: str) -> None:
        self.files = sorted(Path(root, "images").glob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        file = self.files[index]
        ids = cv2.imread(str(file.parents[1] / "masks" / file.name), cv2.IMREAD_UNCHANGED)
        masks = np.array([ids == i for i in np.unique(ids) if i])
        corners = [np.argwhere(mask) for mask in masks]
        boxes = np.array([(*c.min(0)[::-1], *c.max(0)[::-1] + 1) for c in corners], np.float32)
        target = {"boxes": boxes, "labels": np.ones(len(masks), np.int64), "masks": masks.astype(np.uint8)}
        image = torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1)
        return image, {name: torch.from_numpy(value) for name, value in target.items()}


@dataclass(frozen=True)
class Folders:
    """The same for a config: ``data.source`` needs a ``train()`` and a ``val()``."""

    root: str

    def train(self) -> Images:
        return adapt(Folder(f"{self.root}/train"), num_classes=1, classes=["object"])

    def val(self) -> Images:
        return adapt(Folder(f"{self.root}/val"), num_classes=1, classes=["object"])
