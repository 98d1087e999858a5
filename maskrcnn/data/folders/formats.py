"""This project's data formats by name, as configs/data/folder.yaml lists them."""

from __future__ import annotations

from maskrcnn.data.folders.coco import Coco
from maskrcnn.data.folders.labelme import LabelMe
from maskrcnn.data.folders.protocol import Format
from maskrcnn.data.folders.yolo import Yolo

FORMATS: dict[str, Format] = {
    "coco": Coco(),
    "yolo": Yolo(),
    "labelme": LabelMe(),
}
