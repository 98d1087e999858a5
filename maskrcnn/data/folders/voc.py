"""Pascal VOC: its own folders with masks, and xml files next to their images as Roboflow and LabelImg write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.folders import outlines
from maskrcnn.data.folders.entries import Entries, listed
from maskrcnn.data.folders.folder import IMAGES, WHOLE, Folder, part_called, xml_root
from maskrcnn.data.folders.protocol import Part
from maskrcnn.data.formats.voc import ImageSets, VocDataset
from maskrcnn.data.formats.voc_xml import parse_xml
from maskrcnn.errors import UserError


@dataclass(frozen=True)
class Voc:
    """Pascal VOC. Corners are 1-based and inclusive, as in ``data=voc``, which also has VOC's metric.

    Args:
        image_sets: folder in ImageSets that lists the images: ``Segmentation`` (those with masks) or ``Main``. None
            uses Segmentation if it exists.
    """

    image_sets: ImageSets | None = None
    title = "Pascal VOC"
    layout = "JPEGImages, Annotations, ImageSets (and SegmentationObject), or NAME.xml next to NAME.jpg"

    def recognises(self, folder: Folder) -> bool:
        return any(root.tag == "annotation" for _, root in folder.xml_samples)

    def read(self, folder: Folder) -> dict[str, Part]:
        roots = sorted(
            {path.parents[2] for path in folder.ending(".txt") if path.parent.parent.name == "ImageSets"}
        )
        if len(roots) > 1:
            raise UserError(
                f"{folder.root} holds several VOC folders ({listed(roots)}): set data.root to one of them"
            )
        return self._published(roots[0]) if roots else _xml_files(folder)

    def _published(self, root: Path) -> dict[str, Part]:
        """The splits of the folder VOC2007, or of one with its layout."""
        lists = root / "ImageSets"
        images = self.image_sets or ("Segmentation" if any(lists.glob("Segmentation/*.txt")) else "Main")
        found = {
            path.stem: part_called(path.stem) or WHOLE for path in sorted((lists / images).glob("*.txt"))
        }
        parts = {part: split for split, part in found.items() if split == part}
        if not parts:  # trainval, or the only list of an annotation program
            whole = [split for split in found if "_" not in split]
            if len(whole) != 1:
                raise UserError(
                    f"{lists / images} has no train.txt, and {len(whole)} others: leave one of them"
                )
            parts = {WHOLE: whole[0]}
        note = f"the images of ImageSets/{images} (data.formats.voc.image_sets= chooses)"
        return {
            part: Part(root / "JPEGImages", VocDataset(root, split, images).ground_truth(), report=[note])
            for part, split in parts.items()
        }


def _xml_files(folder: Folder) -> dict[str, Part]:
    """The splits of all xml files. The image of an xml file is next to it, or has the name in it."""
    files = {path: xml_root(path) for path in folder.ending(".xml")}
    for path, root in files.items():
        if root.tag != "annotation":
            raise UserError(
                f"{path} is among VOC's files but is not one of them (<{root.tag}>): move it away"
            )
    names = {
        (entry.findtext("name") or "").strip() for root in files.values() for entry in root.findall("object")
    }
    classes = sorted(names)
    entries = Entries(folder, classes)
    for path, root in files.items():
        beside = [path.with_suffix(suffix) for suffix in IMAGES if path.with_suffix(suffix).is_file()]
        name = (
            beside[0].name if beside else (root.findtext("filename") or path.with_suffix(".jpg").name).strip()
        )
        file = folder.find(name, path.parent)
        if file is None:
            entries.missing.append(name)
            continue
        read = parse_xml(path, classes, file)
        image = entries.image(file, (read.height, read.width), folder.part(path))
        for (x1, y1, x2, y2), label in zip(read.boxes.tolist(), read.labels, strict=True):
            entries.add(image, classes[label], outlines.rectangle(x1, y1, x2, y2))
        for _ in root.iter("polygon"):
            entries.leave_out(image, "an outline in an xml, of which the box is read; a COCO export has it")
    entries.unlabelled(folder.images)
    return entries.parts()
