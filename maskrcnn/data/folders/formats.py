"""The built-in data formats by name, as configs/data/folder.yaml lists them."""

from __future__ import annotations

from maskrcnn.data.folders.coco import Coco
from maskrcnn.data.folders.cvat import Cvat
from maskrcnn.data.folders.label_studio import LabelStudio
from maskrcnn.data.folders.labelme import LabelMe
from maskrcnn.data.folders.masks import Masks
from maskrcnn.data.folders.protocol import Format
from maskrcnn.data.folders.via import Via
from maskrcnn.data.folders.voc import Voc
from maskrcnn.data.folders.yolo import Yolo

FORMATS: dict[str, Format] = {
    "coco": Coco(),
    "yolo": Yolo(),
    "voc": Voc(),
    "labelme": LabelMe(),
    "via": Via(),
    "cvat": Cvat(),
    "label_studio": LabelStudio(),
    "masks": Masks(),
}
