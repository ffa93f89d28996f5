"""Read labelled images from class folders, parquet files, torchvision's CIFAR or scikit-learn.

Everything is decoded once and held in memory as uint8, so that a batch costs an index and no more.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mobilenas.data.pixels import (
    Encoded,
    Part,
    channel_statistics,
    check_memory,
    decode_all,
    fit_all,
    one_line,
)
from mobilenas.errors import BadInput

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
ROWS = 1024  # images of a parquet file that are held encoded at a time


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images and their classes, in the order of the source."""

    pixels: npt.NDArray[np.uint8]  # (N, H, W, 3), RGB
    labels: npt.NDArray[np.int64]  # (N,), in 0..classes - 1


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory; `mean` and `std` are per channel, of `train`, in units of 0..1."""

    name: str
    train: Images
    test: Images | None  # never used for selection
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


Loaded = tuple[tuple[str, ...], Images, Images | None]  # classes, train, test


def load_data(source: str, resolution: int, crop: float = 1.0) -> ImageData:
    """Load the data set that `source` names, as images of `resolution` x `resolution` pixels.

    `source` is one of
    - `digits`: scikit-learn's 1,797 handwritten digits, enlarged; every fifth of a class is test;
    - a folder of class folders, DIR/CLASS/*.jpg, or DIR/train/CLASS/* with DIR/test or DIR/val;
    - parquet files as Hugging Face data sets have them (a folder, a file, or files separated by
      commas): column `img` or `image` with bytes, column `label`. Files that are called `test*` or
      `val*` are the test part, unless there are no others;
    - `cifar10:DIR` or `cifar100:DIR`: the python version that torchvision reads.

    Other sizes are scaled (short side to `resolution`, antialiased) and cropped at the centre; with
    `crop` below 1 all are, and of the short side this share is kept (`short_side` of pixels.py);
    grey, palette and alpha images become RGB, the alpha is dropped.

    Raises BadInput where the source is missing, damaged, inconsistent or larger than memory.
    """
    if resolution < 1:
        raise BadInput(f"resolution {resolution}: at least 1 pixel is wanted")
    if not 0 < crop <= 1:
        raise BadInput(f"crop {crop}: a share above 0, up to 1, is wanted")
    kind, colon, folder = source.partition(":")
    if source == "digits":
        name, (classes, train, test) = source, _digits(resolution, crop)
    elif colon and kind in ("cifar10", "cifar100"):
        root = Path(folder).expanduser()
        name, (classes, train, test) = kind, _cifar(kind, root, resolution, crop)
    else:
        path = Path(source).expanduser()
        name = path.resolve().name if path.is_dir() else source
        classes, train, test = _files(source, resolution, crop)
    present = len(np.unique(train.labels))
    if present < 2:
        raise BadInput(f"{source}: training images of {present} class; at least 2 are wanted")
    mean, std = channel_statistics(train.pixels)
    return ImageData(name, train, test, classes, mean, std)


# --- built-in and torchvision -------------------------------------------------------------------


def _digits(resolution: int, crop: float) -> Loaded:
    from sklearn.datasets import load_digits  # here: it takes a second to import

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # the source counts 0..16
    labels = digits.target.astype(np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    check_memory("digits", len(labels), resolution)
    pixels = fit_all(np.repeat(grey[..., None], 3, axis=3), resolution, crop)
    classes = tuple(str(name) for name in digits.target_names)
    train, test = (Images(pixels[part], labels[part]) for part in (~is_test, is_test))
    return classes, train, test


def _cifar(kind: str, root: Path, resolution: int, crop: float) -> Loaded:
    from torchvision.datasets import CIFAR10, CIFAR100  # here: it takes a second to import

    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[kind]
    folder = root / reader.base_folder
    names = [name for name, _ in [*reader.train_list, *reader.test_list]]
    for name in [*names, reader.meta["filename"]]:
        if not (folder / name).is_file():
            raise BadInput(f"{kind}:{root}: {folder / name} does not exist; unpack {reader.url}")
    # torchvision unpickles these files, but only after their MD5 matched the published one.
    try:
        train, test = (reader(root, train=part, download=False) for part in (True, False))
    except RuntimeError as error:
        raise BadInput(
            f"{kind}:{root}: a file in {folder} is damaged (wrong MD5); unpack {reader.url} again"
        ) from error
    check_memory(f"{kind}:{root}", len(train.data) + len(test.data), resolution)
    images = [
        Images(fit_all(part.data, resolution, crop), np.array(part.targets, dtype=np.int64))
        for part in (train, test)
    ]
    return tuple(train.classes), images[0], images[1]


# --- files --------------------------------------------------------------------------------------


def _files(source: str, resolution: int, crop: float) -> Loaded:
    whole = Path(source).expanduser()
    names = [source] if whole.exists() else source.split(",")
    paths = [Path(name.strip()).expanduser() for name in names]
    for name, path in zip(names, paths, strict=True):
        if not name.strip() or not path.exists():
            raise BadInput(
                f"data {name.strip()!r} does not exist; wanted digits, a folder of class folders, "
                "parquet files, cifar10:DIR or cifar100:DIR"
            )
    if whole.is_dir():
        files = sorted(whole.glob("*.parquet"))
        classes, train, test = _parquet(files) if files else _folders(whole)
    else:
        classes, train, test = _parquet(paths)
    check_memory(source, len(train.labels) + (len(test.labels) if test else 0), resolution)
    decoded = [
        Images(decode_all(part, resolution, crop), part.labels) for part in (train, test) if part
    ]
    return classes, decoded[0], decoded[1] if test else None


def _folders(root: Path) -> tuple[tuple[str, ...], Part, Part | None]:
    # A folder `train` that holds images and no folders is a class (of vehicles, say).
    if not _class_folders(root / "train"):
        classes, train = _folder_part(root)
        return classes, train, None
    classes, train = _folder_part(root / "train")
    test_roots = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not test_roots:
        return classes, train, None
    if len(test_roots) > 1:
        logger.warning("%s: test is the test part, val is not used", root)
    test_classes, test = _folder_part(test_roots[0])
    if test_classes != classes:
        odd = sorted(set(classes) ^ set(test_classes))[0]
        raise BadInput(
            f"{test_roots[0]}: classes differ from those of {root / 'train'} (first: {odd}); "
            "both need the same folders"
        )
    return classes, train, test


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _folder_part(root: Path) -> tuple[tuple[str, ...], Part]:
    folders = _class_folders(root)
    if not folders:
        raise BadInput(f"{root}: neither class folders nor *.parquet files in it")
    files: list[Path] = []
    labels: list[int] = []
    skipped: list[Path] = []
    for label, folder in enumerate(folders):
        there = sorted(path for path in folder.rglob("*") if path.is_file())
        images = [path for path in there if path.suffix.lower() in SUFFIXES]
        if not images:
            raise BadInput(f"{folder}: no images in this class folder ({', '.join(SUFFIXES)})")
        files += images
        labels += [label] * len(images)
        skipped += [path for path in there if path.suffix.lower() not in SUFFIXES]
    if skipped:
        logger.warning("%s: skipped %d files, no images: %s ...", root, len(skipped), skipped[0])
    block: list[tuple[str, Encoded]] = [(str(path), path) for path in files]
    return tuple(f.name for f in folders), Part(np.array(labels, dtype=np.int64), [block])


# --- parquet ------------------------------------------------------------------------------------


def _parquet(files: list[Path]) -> tuple[tuple[str, ...], Part, Part | None]:
    train_files = [f for f in files if not f.name.startswith(("test", "val"))]
    if not train_files:
        logger.warning("%s: no training files beside it, so this is the training part", files[0])
        train_files = files
    test_files = [file for file in files if file not in train_files]

    read = {file: _parquet_labels(file) for file in files}
    names = read[train_files[0]][1]
    for file in files:
        if read[file][1] != names:
            raise BadInput(f"{file}: class names differ from those of {train_files[0]}")
    train, test = (_parquet_part(part, read) for part in (train_files, test_files))
    classes = names or tuple(str(i) for i in range(len(np.unique(train.labels))))
    for file in files:
        wrong = np.flatnonzero((read[file][0] < 0) | (read[file][0] >= len(classes)))
        if len(wrong):
            # Without class names the training labels have to be 0..K-1 with none left out.
            raise BadInput(
                f"{file}, row {wrong[0]}: label {read[file][0][wrong[0]]} is out of range; "
                f"there are {len(classes)} classes, so 0..{len(classes) - 1} is wanted"
            )
    return classes, train, test if test_files else None


Labels = tuple[npt.NDArray[np.int64], tuple[str, ...] | None]  # and class names where given


def _parquet_labels(file: Path) -> Labels:
    with _damage_named(file), pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        there = schema.names
        if "label" not in there or not {"img", "image"} & set(there):
            raise BadInput(
                f"{file}: columns img (or image) and label are wanted; there are {', '.join(there)}"
            )
        if not pa.types.is_integer(schema.field("label").type):
            kind = schema.field("label").type
            raise BadInput(f"{file}: column label holds {kind}; integers are wanted")
        column = opened.read(columns=["label"])["label"]
    if not len(column):
        raise BadInput(f"{file}: no rows; at least one image is wanted")
    if column.null_count:
        row = np.flatnonzero(column.is_null().to_numpy())[0]
        raise BadInput(f"{file}, row {row}: label is null; an integer is wanted")
    features = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
    names = features.get("info", {}).get("features", {}).get("label", {}).get("names")
    return column.to_numpy().astype(np.int64), tuple(names) if names else None


def _parquet_part(files: list[Path], read: dict[Path, Labels]) -> Part:
    labels = [np.empty(0, dtype=np.int64), *(read[file][0] for file in files)]
    return Part(np.concatenate(labels), (block for file in files for block in _blocks(file)))


def _blocks(file: Path) -> Iterator[list[tuple[str, Encoded]]]:
    row = 0
    with _damage_named(file), pq.ParquetFile(file) as opened:
        field = next(field for field in opened.schema_arrow if field.name in ("img", "image"))
        nested = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        kind = field.type.field("bytes").type if nested else field.type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise BadInput(f"{file}: column {field.name} holds {field.type}; bytes are wanted")
        wanted = f"{field.name}.bytes" if nested else field.name
        for batch in opened.iter_batches(batch_size=ROWS, columns=[wanted]):
            column = batch.column(0).field("bytes") if nested else batch.column(0)
            images = column.to_pylist()
            yield [(f"{file}, row {row + i}", image) for i, image in enumerate(images)]
            row += len(images)


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file}: cannot be read as parquet ({one_line(error)})") from error
