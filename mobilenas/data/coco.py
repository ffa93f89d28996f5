"""Detection data in COCO format: where its files are, and what is wrong with it.

Everything is checked before any training, and all that was found is told at once.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.base.settings import is_number
from mobilenas.data.images import decode

log = logging.getLogger(__name__)

# Of each layout the names of both parts, where their annotations are, and where their images may
# be: the first of these folders that is there.
_LAYOUTS: tuple[tuple[tuple[str, str], str, tuple[str, ...]], ...] = (
    *(
        (names, "annotations/instances_{}.json", ("{}", "images/{}", "images"))
        for names in (
            ("train2017", "val2017"),
            ("train2014", "val2014"),
            ("train", "val"),
            ("Train", "Validation"),  # CVAT's names of the parts of a task
        )
    ),
    (("train", "valid"), "{}/_annotations.coco.json", ("{}",)),  # Roboflow
    (("train", "val"), "{}.json", ("{}", "images", ".")),
)
_RIGHT = (
    "annotations/instances_NAME.json with images in NAME/ or images/, NAME being train2017 and "
    "val2017, train2014 and val2014, or train and val; train/ and valid/ with images and "
    "_annotations.coco.json (Roboflow); or train.json and val.json with images in train/ and val/, "
    "in images/ or beside them"
)
_ONE_PART = "annotations/instances_default.json"  # CVAT, of a task without parts
_NUMBER = (int, float)
_KEYS: dict[str, dict[str, tuple[type, ...]]] = {  # what each entry has, and of which types
    "images": {"id": (int,), "file_name": (str,), "width": (int,), "height": (int,)},
    "annotations": {
        **dict.fromkeys(("id", "image_id", "category_id", "iscrowd"), (int,)),
        "bbox": (list,),
        "area": _NUMBER,
    },
    "categories": {"id": (int,), "name": (str,)},
}
_TYPES = {(int,): "an integer", (str,): "a string", (list,): "a list", _NUMBER: "a number"}
_NAMED = 3  # of the faults of one kind, so many are named
_SHOWN = 40  # characters of a wrong value
_DECODED = 2000  # images that are decoded; of more, some are drawn
_ROUNDING = 1.0  # pixels that a box may reach over the border: COCO's own are rounded
# mmdet leaves out, unsaid, what has no area and boxes under a pixel wide or high. COCO's own
# train2017 has two boxes without area among 860,001; a few in a thousand are no mistake of units.
_FLAT_SHARE = 1e-3


@dataclass(frozen=True)
class CocoPart:
    """A COCO annotation file and the folder that its file names are relative to."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class CocoImage:
    """What an annotation file says of an image. boxes: how many annotations are of it."""

    name: str
    width: int
    height: int
    boxes: int


@dataclass(frozen=True)
class CocoContent:
    """What there is in a part. crowds, flat: how many of its annotations training leaves out."""

    images: tuple[CocoImage, ...]
    annotations: int
    crowds: int
    flat: int


@dataclass(frozen=True)
class CocoData:
    """A data set that was checked. classes: the names of its categories, in the file's order.

    content: of the training part and of the validation part.
    """

    train: CocoPart
    val: CocoPart
    classes: tuple[str, ...]
    content: tuple[CocoContent, ...] = ()


def find_coco(folder: Path) -> tuple[CocoPart, CocoPart]:
    """The training and the validation part of a data set; nothing is read yet.

    The first layout counts of which there is one annotation file. Raises BadInput that says which
    layouts there are, and what is missing of this one.
    """
    if not folder.is_dir():
        raise BadInput(f"data {folder} is no folder; it must be digits (built in), or {_RIGHT}")
    layouts = [
        [_part(folder, name, at, images) for name in names] for names, at, images in _LAYOUTS
    ]
    begun = (parts for parts in layouts if any(part.annotations.exists() for part in parts))
    parts = next(begun, layouts[-1])
    if parts is layouts[-1] and (folder / _ONE_PART).exists():
        raise BadInput(
            f"data {folder}: {_ONE_PART} is one part; there must be two, one for validation: "
            "annotations/instances_train.json and annotations/instances_val.json"
        )
    for part in parts:
        for path, there in (
            (part.annotations, part.annotations.is_file()),
            (part.images, part.images.is_dir()),
        ):
            if not there:
                raise BadInput(f"data {folder}: there is no {path}; it must be {_RIGHT}")
    return parts[0], parts[1]


def read_coco(folder: Path) -> CocoData:
    """Find and check a data set.

    Images without boxes and crowds are legal. Raises BadInput, one line for all faults of both
    parts: the count of each kind and the first of it.
    """
    parts = find_coco(folder)
    reports: list[str] = []
    known: list[list[tuple[int, str]]] = []  # the categories of each part that has sound ones
    contents: list[CocoContent] = []
    for part in parts:
        faults = _Faults()
        try:
            categories, content = _check_part(part, faults)
        except BadInput as error:
            reports.append(str(error))
            continue
        contents.append(content)
        if categories:
            known.append(categories)
        if known[:1] != known[-1:]:
            first = _first_difference(*known)
            faults.add(
                f"its categories are not those of {parts[0].annotations}, in that order ({first})"
            )
        if faults.counts:
            reports.append(f"{part.annotations}: {faults}")
    if reports:
        raise BadInput("; ".join(reports))
    return CocoData(*parts, tuple(name for _, name in known[0]), tuple(contents))


def read_image(name: str, path: Path) -> npt.NDArray[np.uint8]:
    """An image (h, w, 3), RGB, as training sees it: decoded by OpenCV, which turns it upright.

    Raises BadInput with this name where it is damaged, or where training could not read it or
    would not see its pixels.
    """
    decode(name, path)  # as OpenCV may give what there is of a truncated file, the rest grey
    encoded = np.fromfile(path, np.uint8)
    pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None:
        raise BadInput(
            f"{name}: OpenCV, with which training reads images, does not know this format; it must "
            "be one that it knows, such as JPEG or PNG"
        )
    if pixels.dtype != np.uint8:  # of 16 bits training would see the upper 8, often nothing
        raise BadInput(f"{name}: pixels of type {pixels.dtype}; there must be 8 bits a channel")
    rgb: npt.NDArray[np.uint8] = pixels[..., ::-1]
    return rgb


def _part(folder: Path, name: str, annotations: str, images: tuple[str, ...]) -> CocoPart:
    places = [folder / place.format(name) for place in images]
    there = (place for place in places if place.is_dir())
    return CocoPart(folder / annotations.format(name), next(there, places[0]))


@dataclass
class _Faults:
    """Kinds of faults, in the order met: how many of each, and which came first."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, which: object = None) -> None:
        self.counts[kind] += 1
        named = self.first.setdefault(kind, [])
        if which is not None and len(named) < _NAMED:
            named.append(str(which))

    def __str__(self) -> str:
        parts = []
        for kind, count in self.counts.items():
            named = ", ".join(self.first[kind]) + (", ..." if count > _NAMED else "")
            parts.append(f"{count} {kind} ({named})" if named else kind)
        return "; ".join(parts)


def _first_difference(there: list[tuple[int, str]], here: list[tuple[int, str]]) -> str:
    for one, other in zip(there, here, strict=False):
        if one != other:
            return f"{one} there, {other} here"
    return f"{len(there)} there, {len(here)} here"


def _check_part(part: CocoPart, faults: _Faults) -> tuple[list[tuple[int, str]], CocoContent]:
    """Note the faults of an annotation file and its images.

    Returns the categories, (id, name) each, or none where one of them is not sound; and what
    there is. Raises BadInput if the file is not JSON or not in COCO format.
    """
    content = read_json(part.annotations)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in _KEYS
    ):
        raise BadInput(
            f"{part.annotations} is not in COCO format: it needs lists of {', '.join(_KEYS)}"
        )
    images, annotations, categories = (list(_sound(content, name, faults)) for name in _KEYS)
    for rows, name in ((images, "image"), (annotations, "annotation"), (categories, "category")):
        for repeated in _repeated(row["id"] for row in rows):
            faults.add(f"{name} ids given more than once", repeated)
    for repeated in _repeated(row["name"] for row in categories):
        faults.add("category names given more than once", repeated)
    known = {category["id"] for category in categories}
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    flat = [row for row in annotations if _check_annotation(row, sizes, known, faults)]
    kind = "annotations without area or whose box is less than a pixel wide or high"
    if len(flat) > _FLAT_SHARE * len(annotations):
        for row in flat:
            faults.add(kind, f"{row['id']}: {row['bbox']}")
    elif flat:
        numbers = [row["id"] for row in flat]
        log.warning("%s: %s are left out: %s", part.annotations, kind, numbers)
    _check_files(part.images, images, faults)
    for name in _KEYS:
        if not content[name]:
            faults.add(f"no {name} at all")
    if annotations and all(row["iscrowd"] for row in annotations):
        faults.add("no annotation that is not a crowd")
    boxes = Counter(row["image_id"] for row in annotations)
    there = CocoContent(
        tuple(
            CocoImage(row["file_name"], row["width"], row["height"], boxes[row["id"]])
            for row in images
        ),
        len(annotations),
        crowds=sum(bool(row["iscrowd"]) for row in annotations),
        flat=len(flat),
    )
    if len(categories) < len(content["categories"]):
        return [], there
    return [(category["id"], category["name"]) for category in categories], there


def _sound(content: dict[str, Any], name: str, faults: _Faults) -> Iterator[dict[str, Any]]:
    """The entries of a list that have all their keys."""
    wanted = _KEYS[name]
    for place, row in enumerate(content[name]):
        if not isinstance(row, dict):
            faults.add(f"entries of {name} that are no objects", f"number {place}")
            continue
        wrong = [
            f"{key} {_described(row, key)}, must be {_TYPES[kinds]}"
            for key, kinds in wanted.items()
            if type(row.get(key)) not in kinds
        ]
        if wrong:
            which = f"number {place}: {'; '.join(wrong)}"
            faults.add(f"entries of {name} with keys missing or of another type", which)
        else:
            yield row


def _described(row: dict[str, Any], key: str) -> str:
    if key not in row:
        return "is missing"
    text = json.dumps(row[key])
    return f"is {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"


def _repeated(values: Iterator[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_annotation(
    row: dict[str, Any],
    sizes: dict[int, tuple[int, int]],
    categories: set[int],
    faults: _Faults,
) -> bool:
    """Note the faults of an annotation but one: returns whether training would leave it out."""
    number, box = row["id"], row["bbox"]
    if row["category_id"] not in categories:
        faults.add("annotations of unknown categories", f"{number}: {row['category_id']}")
    if row["image_id"] not in sizes:
        faults.add("annotations of unknown images", f"{number}: {row['image_id']}")
    if len(box) != 4 or not all(map(is_number, box)):
        faults.add("annotations whose bbox is not [left, top, width, height]", f"{number}: {box}")
        return False
    if not is_number(row["area"]):
        faults.add("annotations whose area is not finite", f"{number}: {row['area']}")
        return False
    left, top, width, height = box
    if row["image_id"] in sizes:
        right, bottom = sizes[row["image_id"]]
        beyond = (-left, -top, left + width - right, top + height - bottom)
        if max(beyond) > _ROUNDING:
            faults.add("annotations whose box is outside the image", f"{number}: {box}")
    return bool(min(width, height) < 1 or row["area"] <= 0)


def _check_files(folder: Path, images: list[dict[str, Any]], faults: _Faults) -> None:
    """Note image files that are missing, and of some those unreadable or of another size."""
    there = []
    for image in images:
        if (folder / image["file_name"]).is_file():
            there.append(image)
        else:
            faults.add(f"image files missing in {folder}", image["file_name"])
    if len(there) > _DECODED:
        log.info("%s: %d of %d images are decoded to check them", folder, _DECODED, len(there))
        rows = np.random.default_rng(0).choice(len(there), _DECODED, replace=False)
        there = [there[row] for row in sorted(rows)]
    for image in there:
        name, stated = image["file_name"], (image["width"], image["height"])
        try:
            height, width, _ = read_image(name, folder / name).shape
        except BadInput as error:
            faults.add("image files that are unreadable", error)
            continue
        if (width, height) != stated:
            which = f"{name}: {stated[0]}x{stated[1]} stated, {width}x{height} in the file"
            faults.add("images of another size than stated", which)
