"""This project's data formats by name, as configs/data/folder.yaml lists them."""

from __future__ import annotations

from maskrcnn.data.folders.labelme import LabelMe
from maskrcnn.data.folders.protocol import Format

FORMATS: dict[str, Format] = {
    "labelme": LabelMe(),
}
