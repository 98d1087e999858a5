"""Checks a COCO-format json and converts it to records. Every defect has a place, a description and a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn.data.defects import Defect, Effect, Kind
from maskrcnn.data.formats import coco_fields as fields
from maskrcnn.data.formats.coco_fields import Refused
from maskrcnn.data.formats.coco_selection import Entry, Selection, check_whole, collector_paused
from maskrcnn.data.formats.file_names import FileFinder, folder_with
from maskrcnn.errors import UserError

# Box and mask do not match if the IoU of the box with the bounds of the mask is below this.
_APART = 0.2


@collector_paused()
def load_json(path: Path) -> Any:
    """The content of a json file. Raises UserError if it is missing or broken."""
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except OSError as error:
        raise UserError(f"the file {path} cannot be opened: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # ValueError: not json, or not text
        raise UserError(f"{path} is not valid json ({error}); {_likely(path, error)}") from error


def _likely(path: Path, error: Exception) -> str:
    """The probable problem of a file that is not json, and the remedy."""
    with open(path, "rb") as file:
        packed = file.read(2) in (b"\x1f\x8b", b"PK")
    if packed:
        return "it is packed (gzip or zip): unpack it"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8: save it as such"
    if isinstance(error, json.JSONDecodeError) and error.pos and error.msg == "Extra data":
        return "it holds several values, such as a json on each line: put them into one object"
    if isinstance(error, json.JSONDecodeError) and "double quotes" in error.msg:
        return "json has double quotes around names, and no comma after the last entry: write it by json.dump"
    return "it may be truncated: write or download it again"


def load_annotations(path: Path) -> dict[str, Any]:
    """Load the top-level dictionary of a COCO-format file. Raises UserError for other files.

    A file without the list of annotations, such as COCO's test sets, has images without objects.
    """
    data = load_json(path)
    if not isinstance(data, dict):
        raise UserError(
            f"{path} holds a {type(data).__name__}, but COCO annotations are an object with the lists "
            "images, annotations and categories"
            + (" (a list of results is for predictions=)" if isinstance(data, list) else "")
        )
    data.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise UserError(
                f"{path} has no list '{key}'; COCO annotations have the lists images, annotations, categories"
            )
    return data


@collector_paused()
def select(data: dict[str, Any], folder: Path | None, keep_doubtful: bool = True) -> Selection:
    """Check every entry. Defective entries are left out and reported.

    Args:
        data: content of the json.
        folder: folder of the images; None does not look for them.
        keep_doubtful: keep objects that training keeps with a warning.
    """
    found = Selection()
    categories = _Listed(_read_categories(data["categories"], found), _by_name(data["categories"], "name"))
    images = _Listed(_read_images(data["images"], folder, found), _by_name(data["images"], "file_name"))
    found.objects = {image_id: [] for image_id in found.images}
    left_out = {Effect.STOPS} | (set() if keep_doubtful else {Effect.DOUBTFUL})
    _read_annotations(data["annotations"], categories, images, left_out, found)
    check_whole(found, keep_doubtful)
    return found


class _Listed(NamedTuple):
    """What annotations may refer to, valid or not.

    Attributes:
        ids: the ids.
        names: the id of each name; None if several entries have the name.
    """

    ids: set[int]
    names: dict[str, int | None]

    def id_of(self, entry: Entry, key: str, note: Callable[..., None]) -> int | None:
        """The id that an annotation refers to, or the id of the name in its place."""
        number = fields.identity(entry, key, note)
        name = entry.get(key)
        if number is None and isinstance(name, str) and (number := self.names.get(name)) is not None:
            note(Kind.BY_NAME, key)
        return number


def _by_name(entries: list[Any], key: str) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(name := entry.get(key), str):
            number = fields.whole(entry.get("id"))
            found[name] = number if found.get(name, number) == number else None
    return found


def _noting(defects: list[Defect], where: str) -> Callable[..., None]:
    return lambda kind, found="": defects.append(Defect(kind, where, found))


def _numbered(entries: list[Any], what: str, defects: list[Defect]) -> Iterator[tuple[int, Entry]]:
    """Yield the entries with their ids. Those without a valid id are reported."""
    for place, entry in enumerate(entries):
        where = f"entry {place} of {what}"
        number = fields.identity(entry, "id", _noting(defects, where)) if isinstance(entry, dict) else None
        if number is None:
            defects.append(Defect(Kind.NO_ID, where))
        else:
            yield number, entry


def _identified(
    entries: list[Any], what: str, twice: Kind, defects: list[Defect]
) -> tuple[dict[int, Entry], set[int]]:
    """Entries by id, and the ids that several different entries have. Those entries are left out."""
    by_id: dict[int, Entry] = {}
    doubtful: set[int] = set()
    for number, entry in _numbered(entries, what, defects):
        entry = {**entry, "id": number}
        if number in by_id:
            name = entry.get("file_name") or entry.get("name")
            singular = "category" if what == "categories" else "image"
            defects.append(Defect(twice, f"{singular} {number}{f' ({name})' if name else ''}"))
            if entry != by_id[number]:
                doubtful.add(number)
        else:
            by_id[number] = entry
    return {number: entry for number, entry in by_id.items() if number not in doubtful}, doubtful


def _read_categories(entries: list[Any], found: Selection) -> set[int]:
    """Fill ``found.categories``. Returns the ids of all listed categories, valid or not."""
    categories, doubtful = _identified(entries, "categories", Kind.CATEGORY_TWICE, found.defects)
    names: set[str] = set()
    for number, entry in sorted(categories.items()):
        note = _noting(found.defects, f"category {number}")
        listed, name = entry.get("keypoints") or [], str(entry.get("name") or number)
        if not isinstance(listed, list) or not all(isinstance(keypoint, str) for keypoint in listed):
            note(Kind.KEYPOINT_NAMES)
            continue
        read = {"keypoints": listed or None, "skeleton": entry.get("skeleton") or None}
        if read["skeleton"] and not fields.skeleton(read["skeleton"], len(listed)):
            note(Kind.SKELETON)
            read["skeleton"] = None
        if (alike := name.strip().casefold()) in names:
            note(Kind.SAME_NAME, repr(name))
        names.add(alike)
        found.categories.append(_merged(entry, {**read, "name": name}))
    if not categories and not doubtful:
        found.defects.append(Defect(Kind.NO_CATEGORY, "categories"))
    return doubtful | set(categories)


def _read_images(entries: list[Any], folder: Path | None, found: Selection) -> set[int]:
    """Fill ``found.images``. Returns the ids of all listed images, valid or not."""
    images, doubtful = _identified(entries, "images", Kind.IMAGE_TWICE, found.defects)
    finder = None if folder is None else FileFinder(folder)
    missing: list[Defect] = []
    files: set[str] = set()
    for number, entry in images.items():
        note = _noting(found.defects, f"image {number}")
        try:
            height, width = fields.size(entry, note)
            if finder is not None:
                entry["file_name"] = _file_of(entry, finder, found.defects)
        except Refused as error:
            if error.kind is Kind.FILE_MISSING:
                missing.append(Defect(error.kind, f"image {number} ({entry.get('file_name')})", error.found))
            else:
                note(error.kind, error.found)
            continue
        name = entry.get("file_name")
        if finder is not None and name in files:
            note(Kind.FILE_TWICE)
        files.add(str(name))
        found.images[number] = {**entry, "height": height, "width": width}
    if folder is not None and len(missing) > 3 and 2 * len(missing) > len(images):
        found.defects.append(_wrong_folder(images, len(missing), folder))
    else:
        found.defects += missing
    return doubtful | set(images)


def _file_of(entry: Entry, finder: FileFinder, defects: list[Defect]) -> str:
    # LVIS and COCO Annotator use other keys for the file name.
    names = [entry.get(key) for key in ("file_name", "coco_url", "path")]
    name = next((name for name in names if isinstance(name, str) and name), None)
    if name is None:
        raise Refused(Kind.NO_FILE_NAME)
    paths = finder.find(name) or finder.find(name.strip())
    if not paths:
        raise Refused(Kind.FILE_MISSING, str(finder.folder))
    if len(paths) > 1:
        raise Refused(Kind.SEVERAL_FILES, ", ".join(paths[:3]))
    if paths[0] not in (name, name.replace("\\", "/")):
        defects.append(Defect(Kind.FOUND_ELSEWHERE, f"image {entry['id']}: {name} is {paths[0]}"))
    return paths[0]


def _wrong_folder(images: dict[int, Entry], missing: int, folder: Path) -> Defect:
    names = [name for entry in images.values() if isinstance(name := entry.get("file_name"), str)]
    better = next((place for name in names[:3] if (place := folder_with(name, folder))), None)
    hint = f"; {better} holds such files" if better is not None and better != folder else ""
    words = f"{missing} of {len(images)} are not in {folder} ({', '.join(names[:3])}, ...){hint}"
    return Defect(Kind.WRONG_FOLDER, f"{len(images)} images", words)


def _read_annotations(
    entries: list[Any], categories: _Listed, images: _Listed, left_out: set[Effect], found: Selection
) -> None:
    """Fill ``found.objects``. Defective categories and images, which are listed too, are already reported."""
    num_keypoints = {category["id"]: len(category.get("keypoints", ())) for category in found.categories}
    seen: set[int] = set()
    for number, entry in _numbered(entries, "annotations", found.defects):
        defects: list[Defect] = []
        note = _noting(defects, f"annotation {number}")
        if number == 0:
            note(Kind.ID_ZERO)
        if number in seen:
            note(Kind.ANNOTATION_TWICE)
        seen.add(number)
        image_id = images.id_of(entry, "image_id", note)
        category_id = categories.id_of(entry, "category_id", note)
        if image_id not in images.ids:
            note(Kind.UNKNOWN_IMAGE, repr(entry.get("image_id"))[:80])
        elif category_id not in categories.ids:
            note(Kind.UNKNOWN_CATEGORY, repr(entry.get("category_id"))[:80])
        elif image_id in found.images and category_id in num_keypoints:
            image = found.images[image_id]
            note = _noting(defects, f"annotation {number} of image {image['id']}")
            try:
                read = _annotation(entry, image, category_id, num_keypoints[category_id], note)
                # Use the entry's own integer, so that an unchanged entry is not copied.
                read |= {"id": number, "image_id": image_id, "category_id": category_id}
                if not any(defect.effect in left_out for defect in defects):
                    found.objects[image["id"]].append(_merged(entry, read))
            except Refused as error:
                note(error.kind, error.found)
        found.defects += defects


def _annotation(
    entry: Entry, image: Entry, category_id: int, num_keypoints: int, note: Callable[..., None]
) -> Entry:
    """The converted fields of an annotation, None for missing ones. Raises `Refused` if it is not an object."""
    height, width = image["height"], image["width"]
    segmentation = fields.unpacked(entry.get("segmentation"), "segmentation", note)
    segmentation, bounds = fields.segmentation(segmentation, height, width, note)
    stated = fields.unpacked(entry.get("bbox"), "bbox", note)
    if isinstance(stated, list) and len(stated) == 1 and isinstance(stated[0], list):
        stated = stated[0]
        note(Kind.OTHERWISE, "bbox")
    if isinstance(stated, list) and len(stated) in (5, 8):  # centre, size and angle, or four corners
        if bounds is None:
            raise Refused(Kind.ROTATED_BOX, str(len(stated)))
        note(Kind.ROTATED_AND_MASK, str(len(stated)))
        stated = None
    if bounds is None and fields.is_turned(entry.get("attributes")):
        note(Kind.ROTATION)
    if not stated and bounds is not None:  # some tools only write the segmentation
        stated = [bounds[0], bounds[1], bounds[2] - bounds[0], bounds[3] - bounds[1]]
    box = fields.box(stated, height, width, note)
    if bounds is not None and box is stated and fields.overlap(box, bounds) < _APART:
        note(Kind.BOX_AND_MASK)
    points = fields.keypoints(entry.get("keypoints"), num_keypoints, category_id, note)
    return {
        "bbox": box,
        "iscrowd": fields.crowd(entry.get("iscrowd"), note),
        "area": fields.area(entry.get("area"), box, note),
        "segmentation": segmentation,
        "keypoints": points,
        "num_keypoints": None if points is None else sum(seen > 0 for seen in points[2::3]),
    }


def _merged(entry: Entry, read: Entry) -> Entry:
    """``entry`` with the fields of ``read``. An unchanged entry is returned itself, which saves memory."""
    for key, value in read.items():
        if entry.get(key) is not value or (value is None and key in entry):
            return {key: value for key, value in {**entry, **read}.items() if value is not None}
    return entry
