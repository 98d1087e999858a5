"""Pascal VOC: its own folders with masks, and xml files next to their images as Roboflow and LabelImg write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskrcnn.data.defects import listed
from maskrcnn.data.folders.entries import Entries, Outline
from maskrcnn.data.folders.folder import IMAGES, WHOLE, Folder, Part, part_called
from maskrcnn.data.formats.voc import ImageSets, VocDataset
from maskrcnn.data.formats.voc_xml import parse_xml, xml_root
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
        return any(root.tag == "annotation" for root in folder.xml_samples)

    def read(self, folder: Folder) -> dict[str, Part]:
        lists = (path for path in folder.ending(".txt") if path.parent.parent.name == "ImageSets")
        roots = sorted({path.parents[2] for path in lists})
        if len(roots) > 1:
            raise UserError(
                f"{folder.root} holds several VOC folders ({listed(roots)}): set data.root to one of them"
            )
        return self._published(roots[0]) if roots else _xml_files(folder)

    def _published(self, root: Path) -> dict[str, Part]:
        """The splits of the folder VOC2007, or of one with its layout."""
        lists = root / "ImageSets"
        images = self.image_sets or ("Segmentation" if any(lists.glob("Segmentation/*.txt")) else "Main")
        splits = sorted(path.stem for path in (lists / images).glob("*.txt"))
        found = {split: part_called(split) or WHOLE for split in splits}
        parts = {part: split for split, part in found.items() if split == part}
        if not parts:  # trainval, or the only list of an annotation program
            whole = [split for split in found if "_" not in split]
            if len(whole) != 1:
                raise UserError(f"{lists / images} has no train.txt, and {len(whole)} others: leave one")
            parts = {WHOLE: whole[0]}
        note = f"the images of ImageSets/{images} (data.formats.voc.image_sets= chooses)"
        return {
            part: Part(root / "JPEGImages", VocDataset(root, split, images).ground_truth(), report=[note])
            for part, split in parts.items()
        }


def _xml_files(folder: Folder) -> dict[str, Part]:
    """The splits of all xml files. The image of an xml file is next to it, or has the name in it."""
    files = {path: xml_root(path) for path in folder.ending(".xml")}
    for xml, root in files.items():
        if root.tag != "annotation":
            raise UserError(f"{xml} is among VOC's files but is not one of them (<{root.tag}>): move it away")
    objects = (entry for root in files.values() for entry in root.findall("object"))
    classes = sorted({(entry.findtext("name") or "").strip() for entry in objects})
    entries = Entries(folder, classes)
    for path, root in files.items():
        near = [path.with_suffix(suffix).name for suffix in IMAGES if path.with_suffix(suffix).is_file()]
        name = near[0] if near else (root.findtext("filename") or path.with_suffix(".jpg").name).strip()
        file = folder.find(name, path.parent)
        if file is None:
            entries.missing.append(name)
            continue
        read = parse_xml(path, classes, file)
        image = entries.image(file, (read.height, read.width), folder.part(path))
        for (x1, y1, x2, y2), label in zip(read.boxes.tolist(), read.labels, strict=True):
            entries.add(image, classes[label], Outline.rectangle(x1, y1, x2, y2))
        for _ in root.iter("polygon"):
            entries.leave_out(image, "an outline in an xml, of which the box is read; a COCO export has it")
    entries.unlabelled(folder.images)
    return entries.parts()
