"""Labelled images from folders, parquet or tar files, torchvision's CIFAR or scikit-learn.

`load_data` decodes everything once into memory, so that a batch costs an index and no more.
`open_data` reads an index only; the images of a large data set are read when they are needed.
`read_data` does the one or the other by the size, and says what was found.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path

import numpy as np

from mobilenas.base.data_name import DataName
from mobilenas.base.errors import BadInput
from mobilenas.data.builtin import load_cifar, load_digits
from mobilenas.data.folders import index_folders
from mobilenas.data.found import Found, counted
from mobilenas.data.images import ChosenImages, EncodedImages, ImageData, Images, Part
from mobilenas.data.indexed import Indexed
from mobilenas.data.listing import Folder, scan
from mobilenas.data.parquet import Columns, index_parquet
from mobilenas.data.pixels import Decoding, channel_statistics, check_memory, decode_all, try_all
from mobilenas.data.roles import split_files
from mobilenas.data.tars import index_tars

_HELD_BYTES = 2 << 30  # of decoded images, from which on they are streamed
_OPTIONS = ("image", "label", "damaged")
_FEW = 5  # names of classes in a note

log = logging.getLogger(__name__)


Damaged = Mapping[str, list[int]]  # part -> the rows of its images that are left out


def load_data(source: str, resolution: int, crop: float = 1.0) -> ImageData:
    """Load the data set that `source` names, as images of `resolution` x `resolution` pixels.

    `source` is one of
    - `digits`: scikit-learn's 1,797 handwritten digits, enlarged; every fifth of a class is test;
    - a folder of class folders, DIR/CLASS/*.jpg, or the same in DIR/train and DIR/test (or val,
      validation ...; `roles.py` has the names); or images listed by a metadata.csv;
    - parquet files as Hugging Face data sets have them (a folder, a file, or files separated by
      commas): column `img` or `image` with bytes, column `label` with integers. A word in the name
      of a file or of its folder says which part it is (`test-00000.parquet`, `val/0000.parquet`);
    - WebDataset shards, in the same way: *.tar with KEY.jpg (jpeg, png, webp) and KEY.cls, a number
      from 0; a file classes.txt in the folder, or beside the first shard of the training part,
      names the classes, one a line;
    - `cifar10:DIR` or `cifar100:DIR`: the python version that torchvision reads.

    Options may follow after semicolons, `DIR;label=fine_label`: `image` and `label` name columns,
    `damaged=skip` leaves out images that cannot be decoded.

    The test part is that called test if it is labelled, else the validation part. Hidden files are
    left out, links are followed. Photos are turned upright as their EXIF orientation says. Other
    sizes are scaled (short side to `resolution`, antialiased) and cropped at the centre; with
    `crop` below 1 all are, and of the short side this share is kept (`short_side` of pixels.py);
    grey, palette and alpha images become RGB, the alpha is dropped.

    Raises BadInput where the source is missing, damaged, inconsistent or larger than memory.
    """
    asked = Source.parse(source)
    return _held(asked, _index(asked) if asked.kind == "files" else None, resolution, crop)


def open_data(source: str, damaged: Damaged | None = None) -> ImageData:
    """Index the files that `source` names: folders, parquet or tar files as in `load_data`.

    damaged: the images that `damaged=skip` was found to leave out before; None decodes all images
    to find them. Labels and classes are those of `load_data`. Raises BadInput where the source is
    missing or inconsistent; without `damaged=skip` a damaged image is found when it is read.
    """
    asked = Source.parse(source)
    if asked.kind != "files":
        raise BadInput(
            f"{source} is always held in memory; class folders, parquet and tar files are streamed"
        )
    return _streamed(asked, _index(asked), damaged)


def read_data(
    source: str,
    resolution: int,
    crop: float = 1.0,
    *,
    stream: bool | None = None,
    damaged: Damaged | None = None,
) -> ImageData:
    """`open_data` if `stream`, `load_data` if not; None streams what would take more than 2 GiB
    decoded. Logs one line of what was found. Raises BadInput as these do.
    """
    asked = Source.parse(source)
    if stream and asked.kind != "files":
        return open_data(source)  # which refuses
    index = _index(asked) if asked.kind == "files" else None
    if stream is None and index is not None:
        images = len(index.train) + len(index.test or ())
        stream = images * resolution * resolution * 3 > _HELD_BYTES
    if stream and index is not None:
        data = _streamed(asked, index, damaged)
    else:
        data = _held(asked, index, resolution, crop)
    log.info("%s", data.found)
    return data


def _held(asked: "Source", index: Indexed | None, resolution: int, crop: float) -> ImageData:
    """All images decoded; index: None for a built-in data set."""
    if resolution < 1:
        raise BadInput(f"resolution {resolution}: must be at least 1 pixel")
    if not 0 < crop <= 1:
        raise BadInput(f"crop {crop}: must be a share above 0, up to 1")
    if index is None:
        return _builtin(asked, resolution, crop)
    check_memory(asked.text, len(index.train) + len(index.test or ()), resolution)
    train, tried = decode_all(index.train, resolution, crop, skip=asked.skip_damaged)
    test: Images | None = None
    decodings = {"train": tried}
    if index.test is not None:
        test, decodings["test"] = decode_all(index.test, resolution, crop, skip=asked.skip_damaged)
    found = _found(asked, index, train, test, decodings)
    mean, std = channel_statistics(train.pixels)
    return ImageData(_name(asked), train, test, index.classes, mean, std, found)


def _builtin(asked: "Source", resolution: int, crop: float) -> ImageData:
    if asked.kind == "digits":
        classes, train, test = load_digits(resolution, crop)
    else:
        classes, train, test = load_cifar(asked.kind, asked.paths[0], resolution, crop)
    mean, std = channel_statistics(train.pixels)
    found = Found(asked.text, len(train), len(test), "test", classes)
    return ImageData(asked.kind, train, test, classes, mean, std, found)


def _streamed(asked: "Source", index: Indexed, damaged: Damaged | None) -> ImageData:
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # slow to import

    parts: dict[str, EncodedImages] = {"train": index.train}
    if index.test is not None:
        parts["test"] = index.test
    decodings: dict[str, Decoding] = {}
    if asked.skip_damaged:
        for name, part in parts.items():
            known = None if damaged is None else damaged.get(name, [])
            decodings[name] = try_all(part, skip=True) if known is None else Decoding(known, 0)
            rows = np.setdiff1d(np.arange(len(part)), decodings[name].damaged)
            parts[name] = ChosenImages(part, rows)
    train, test = parts["train"], parts.get("test")
    found = _found(asked, index, train, test, decodings)
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return ImageData(_name(asked), train, test, index.classes, mean, std, found)


@dataclass(frozen=True)
class Source:
    """What names a data set: its kind, its paths (a folder, or files) and its options."""

    text: str
    kind: str  # digits, cifar10, cifar100 or files
    paths: tuple[Path, ...] = ()
    columns: Columns = field(default_factory=Columns)
    skip_damaged: bool = False

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Raises BadInput naming a path that is empty or does not exist, or an option that there is
        not.
        """
        name = DataName.parse(text)
        options = _options(text, name.options.split(";") if name.options else [])
        kind = name.start.removesuffix(":") or "files"
        if kind == "files":
            for path in name.paths:
                if not path.exists():
                    raise BadInput(
                        f"data {str(path)!r} does not exist; it must be digits, a folder of class "
                        "folders, parquet or tar files, cifar10:DIR or cifar100:DIR"
                    )
                if not path.is_file() and not path.is_dir():
                    raise BadInput(f"data {str(path)!r} is neither a file nor a folder")
                if path.is_dir() and len(name.paths) > 1:
                    raise BadInput(f"data {str(path)!r} is a folder; give one folder, or files")
            if twice := [x for x, n in Counter(map(realpath, name.paths)).items() if n > 1]:
                raise BadInput(f"data {twice[0]!r} is given more than once")
        elif {"image", "label"} & options.keys():
            raise BadInput(f"data {text!r}: image= and label= are for tables, {kind} has none")
        columns = Columns(options.get("image"), options.get("label"))
        return cls(text, kind, name.paths, columns, "damaged" in options)


def _options(text: str, given: list[str]) -> dict[str, str]:
    options = {}
    for option in given:
        key, _, value = (word.strip() for word in option.partition("="))
        if key not in _OPTIONS or not value or (key == "damaged" and value != "skip"):
            raise BadInput(
                f"data {text!r}: option {option.strip()!r}: it must be image=COLUMN, label=COLUMN "
                "or damaged=skip"
            )
        options[key] = value
    return options


def _index(asked: Source) -> Indexed:
    index = _read_index(asked, Counter())
    present = len(np.unique(index.train.labels))
    if present < 2:
        raise BadInput(
            f"{asked.text}: training images of {present} class; there must be at least 2 classes"
        )
    return index


def _read_index(asked: Source, left_out: Counter[str]) -> Indexed:
    first, columns = asked.paths[0], asked.columns
    if first.is_dir():
        folder = scan(first, left_out)
        files = _shards(folder)
        if not files:
            if columns.image:
                raise BadInput(
                    f"data {asked.text!r}: image= is for parquet files, {first} has none"
                )
            return index_folders(folder, left_out, columns.label)
        parts, root = split_files(files, first), first
    else:
        files, root = list(asked.paths), first.parent
        parts = split_files(files)
    if files[0].suffix == ".tar":
        if columns.image or columns.label:
            raise BadInput(f"data {asked.text!r}: image= and label= are for tables, not tar files")
        return index_tars(parts, root, left_out)
    return index_parquet(parts, columns, left_out)


def _shards(folder: Folder) -> list[Path]:
    """The parquet or else the tar files in a folder; where it has no images, also those below."""
    own = [folder.path / name for name in folder.files]
    for found in (own, [] if folder.images() else list(folder.walk())):
        for suffix in (".parquet", ".tar"):
            if files := [path for path in found if path.suffix == suffix]:
                return files
    return []


def _found(
    asked: Source,
    index: Indexed,
    train: Part,
    test: Part | None,
    decodings: Mapping[str, Decoding],
) -> Found:
    """What was found, with what the decoding of the parts showed."""
    notes = []
    for part, words in ((train, "training"), (test, "test")):
        if part is not None:
            lacking = np.setdiff1d(np.arange(len(index.classes)), part.labels)
            if len(lacking):
                named = ", ".join(index.classes[number] for number in lacking[:_FEW])
                more = f" and {len(lacking) - _FEW} classes more" if len(lacking) > _FEW else ""
                notes.append(f"no {words} images of {named}{more}")
    turned = sum(decoding.turned for decoding in decodings.values())
    if turned:
        notes.append(f"{counted(turned, 'images')} turned upright (EXIF)")
    damaged = {name: decoding.damaged for name, decoding in decodings.items()}
    left_out = index.left_out + Counter({"damaged images": sum(map(len, damaged.values()))})
    return Found(
        source=asked.text,
        train_images=len(train),
        test_images=0 if test is None else len(test),
        test_part=index.test_role,
        classes=index.classes,
        left_out=dict(left_out),
        notes=tuple(notes),
        damaged=damaged if asked.skip_damaged else {},
    )


def _name(asked: Source) -> str:
    (path, *others) = asked.paths
    return path.resolve().name if path.is_dir() and not others else asked.text
