"""A data format: annotations.csv with a line file,class,x1,y1,x2,y2 per object, in pixels."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from maskrcnn.data.folders.entries import Entries, Outline
from maskrcnn.data.folders.folder import Folder, Part


@dataclass(frozen=True)
class BoxesCsv:
    """One line per object. Images without a line are counted and left out."""

    title = "boxes as csv"
    layout = "annotations.csv with the lines file,class,x1,y1,x2,y2"

    def recognises(self, folder: Folder) -> bool:
        return (folder.root / "annotations.csv").is_file()

    def read(self, folder: Folder) -> dict[str, Part]:
        entries, images = Entries(folder), {}
        for file, name, *corners in csv.reader((folder.root / "annotations.csv").open()):
            if file not in images:
                images[file] = entries.named(file, near=folder.root)
            if (image := images[file]) is not None:
                entries.add(image, name, Outline.rectangle(*map(float, corners)))
        entries.unlabelled(folder.images)
        return entries.parts()
