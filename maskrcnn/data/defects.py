"""Kinds of defects in a data set, and their effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from maskrcnn.errors import UserError

FIX = "tools/check_data.py --fix writes a cleaned json"


class Effect(Enum):
    """The effect of a defect."""

    STOPS = "training refuses the file; --fix leaves the entry out"
    DROPPED = "the entry is left out"
    PART = "a part of the entry is left out"
    DOUBTFUL = "training keeps the entry; --fix leaves it out"
    NOTED = "the entry is kept"
    CONVERTED = "the entry is converted"


STOPS, DROPPED, PART, DOUBTFUL, NOTED, CONVERTED = Effect
REDRAW, AGAIN = f"draw it again or remove it ({FIX})", f"draw it again ({FIX})"


class Kind(Enum):
    """Kinds of defects: description (``{}`` stands for the value that was found), effect and remedy."""

    NO_ID = "no whole number from 0 to 2^63 - 1 as id", STOPS, f"give it a number as id ({FIX})"
    NO_CATEGORY = "no category", STOPS, "list the classes as {id, name}"
    CATEGORY_TWICE = "this id occurs twice in categories", STOPS, "give each category its own"
    KEYPOINT_NAMES = "keypoints that are no list of names", STOPS, "list them"
    SKELETON = "a skeleton that is no list of pairs of keypoints, ignored", PART, "list pairs, from 1 on"
    SAME_NAME = (
        "another category has the same name {}, except for capitals and spaces",
        NOTED,
        "rename one of them, or merge them",
    )
    EMPTY_ROOT = (
        "a class without objects whose name {} is the supercategory of all others",
        NOTED,
        "leave it out of categories: Roboflow lists the project's name as a class",
    )

    IMAGE_TWICE = "this id occurs twice in images", STOPS, "give each image its own"
    NO_FILE_NAME = "no file_name", STOPS, "name its file, relative to the images folder"
    NO_SIZE = "no positive whole height and width", STOPS, FIX
    TOO_LARGE = "a height and width that no image has, {}", STOPS, FIX
    FILE_MISSING = (
        "its file is missing in {}",
        STOPS,
        f"add the file, point the images folder elsewhere, or leave the image out ({FIX})",
    )
    SEVERAL_FILES = (
        "several files could be its own: {}",
        STOPS,
        "write the file's path, relative to the images folder, as file_name",
    )
    WRONG_FOLDER = "most image files are missing: {}", STOPS, "point the images folder at the one with them"
    FILE_TWICE = "its file is listed for another image too", NOTED, "list an image once, with all objects"
    FOUND_ELSEWHERE = "its file was found under another name", CONVERTED
    IMAGE_UNREADABLE = "{}", STOPS, f"replace it or leave it out ({FIX})"
    FEW_BITS = "16 bits of which few are used, read as almost black", NOTED, "scale to 65535, or save 8 bits"

    ANNOTATION_TWICE = "this id occurs twice in annotations", STOPS, f"renumber them ({FIX})"
    ID_ZERO = "the id 0, which pycocotools takes for no match", CONVERTED, f"number them from 1 on ({FIX})"
    UNKNOWN_IMAGE = (
        "it belongs to image {}, which is not listed",
        STOPS,
        f"add the image to 'images' or leave the annotation out ({FIX})",
    )
    UNKNOWN_CATEGORY = "its category {} is not listed", STOPS, f"list the category or leave it out ({FIX})"
    CROWD_VALUE = "iscrowd={}, which is neither 0 nor 1", STOPS, f"write 0 or 1 ({FIX})"
    BOX_NUMBERS = "a bbox that is not four numbers x, y, width, height, dropped", DROPPED, REDRAW
    BOX_NOT_FINITE = "a bbox with a number that is not finite, dropped", DROPPED, REDRAW
    BOX_SIZE = "a box of zero or negative size, dropped", DROPPED, REDRAW
    BOX_OUTSIDE = "a box outside of its image, dropped", DROPPED, REDRAW
    OTHERWISE = "{} that is not in COCO's form, converted", CONVERTED
    BY_NAME = "{} that is a name, read as the id of what it names", CONVERTED
    ROTATED_BOX = (
        "a rotated box of {} numbers, dropped",
        DROPPED,
        "give its corners as a polygon in segmentation: the box is then measured from it",
    )
    ROTATED_AND_MASK = "a rotated box of {} numbers, measured from its mask instead", CONVERTED
    ROTATION = (
        "a box rotated by attributes.rotation, which training reads without the rotation",
        DOUBTFUL,
        f"export rotated boxes as polygons ({FIX} without them)",
    )
    BOX_BEYOND = (
        "a box that extends beyond its image, clipped",
        PART,
        "bbox is [x, y, width, height]: are these perhaps [x1, y1, x2, y2]?",
    )
    BOX_AND_MASK = (
        "its box and its mask do not match",
        DOUBTFUL,
        "bbox is [x, y, width, height] in pixels of the image as it is now, and RLE runs column by column",
    )
    POLYGON = "{}, ignored", PART, AGAIN
    SEGMENTATION_TYPE = "its segmentation is a {}, neither polygons nor RLE, ignored", PART, AGAIN
    RLE_SIZE = "its RLE has the size {} (height, width)", STOPS, f"make both the same ({FIX})"
    RLE_COUNTS = "its RLE has no counts", STOPS, f"encode the mask again ({FIX})"
    RLE_DAMAGED = "{}", STOPS, f"encode the mask again ({FIX})"
    RLE_BYTES = "an RLE string inside of b'...', read without it", CONVERTED
    EMPTY_MASK = "its mask is empty", PART, f"draw it again ({FIX} with its box alone)"
    KEYPOINTS = "{}, ignored", PART, f"mark them again ({FIX})"
    AREA = "an area that its mask or box cannot have, measured instead", CONVERTED
    AREA_OF_MASK = "an area far from that of its mask", NOTED, "APs, APm and APl depend on it: leave it out"
    READ_AS_NUMBER = "{} that is a string, read as a number", CONVERTED
    ONE_POLYGON = "a polygon that is not nested as in COCO, converted", CONVERTED

    SHARES = (
        "all boxes lie within 0..1: shares of the image, not pixels",
        STOPS,
        "multiply x and width by the image's width, y and height by its height (where only the boxes are shares, "
        "leave out bbox: it is then measured from the mask)",
    )
    PERCENT = (
        "all boxes and masks lie within 0..100 although every image is larger: {}",
        NOTED,
        "if these are percent, as Label Studio writes them, multiply them by the image's width and height / 100",
    )
    MANY_CROWDS = (
        "{} objects are marked iscrowd=1, which is ignored in training and scoring",
        NOTED,
        "if they are single objects (CVAT marks brushed masks so), tools/check_data.py --fix crowds=objects "
        "writes them with iscrowd=0",
    )
    NUMBERED = "{} that is no such number, numbered by --fix", CONVERTED
    RENUMBERED = "ids missing, 0, too large or doubled, renumbered by --fix", CONVERTED
    SAME_OBJECT = "the same object as another annotation's", DOUBTFUL, f"list each object once ({FIX})"
    LISTED_TWICE = "the same annotation a second time, dropped", DROPPED, f"list it once ({FIX})"
    SIZE_OF_FILE = "height and width that are missing, taken from the file by --fix", CONVERTED
    SIZE_EXCHANGED = "height and width swapped, taken from the file by --fix", CONVERTED
    CROWD_IS_OBJECT = "iscrowd=1, written as 0 by --fix", CONVERTED
    RENAMED_CLASS = "a category id that is another one in {}, taken from there", CONVERTED
    NO_PIXEL = "an object without a pixel", DROPPED, "it is passed over"
    FILE = "{}", STOPS, "unpack or download it again"

    def __init__(self, words: str, effect: Effect, remedy: str = "nothing to do") -> None:
        self.words, self.effect, self.remedy = words, effect, remedy


@dataclass(frozen=True)
class Defect:
    """A defect in a data set.

    Args:
        kind: its kind.
        where: the entry, by id.
        found: the value that was found, if the description of the kind has a ``{}``.
    """

    kind: Kind
    where: str
    found: str = ""

    @property
    def words(self) -> str:
        """The description, the same for the same defect."""
        return self.kind.words.replace("{}", self.found)

    @property
    def effect(self) -> Effect:
        return self.kind.effect

    @property
    def fatal(self) -> bool:
        """Whether training refuses the file."""
        return self.effect is Effect.STOPS

    @property
    def harmless(self) -> bool:
        """Whether it loses nothing and needs no repair."""
        return self.effect in (Effect.NOTED, Effect.CONVERTED)

    @property
    def remedy(self) -> str:
        return self.kind.remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.words}; {self.remedy}"


def grouped(defects: Iterable[Defect]) -> list[list[Defect]]:
    """Group defects with the same description, in the order of the first of each."""
    kinds: dict[tuple[Kind, str], list[Defect]] = {}
    for defect in defects:
        kinds.setdefault((defect.kind, defect.words), []).append(defect)
    return list(kinds.values())


def listed(values: Sequence[Any]) -> str:
    """The first three values, with dots if there are more."""
    return ", ".join(map(str, values[:3])) + (", ..." if len(values) > 3 else "")


def summarise(path: Path, defects: Iterable[Defect]) -> list[str]:
    """Summarise each kind of defect of a file in one line: the number, and the first few places."""
    return [
        f"{path}: {len(found)} x {found[0].words} ({listed([d.where for d in found])}); {found[0].remedy}"
        for found in grouped(defects)
    ]


def refuse_fatal(path: Path, defects: Iterable[Defect]) -> None:
    """Raise UserError with a line for each kind of fatal defect."""
    if fatal := summarise(path, (defect for defect in defects if defect.fatal)):
        raise UserError("\n".join(fatal))
