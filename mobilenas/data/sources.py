"""Labelled images from class folders, parquet or tar files, torchvision's CIFAR or scikit-learn.

`load_data` decodes everything once into memory, so that a batch costs an index and no more.
`open_data` reads an index only; the images of a large data set are read when they are needed.
`read_data` does the one or the other by the size.
"""

from pathlib import Path

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.data.folders import index_folders
from mobilenas.data.images import ImageData, Images, Indexed, Part
from mobilenas.data.parquet import index_parquet
from mobilenas.data.pixels import channel_statistics, check_memory, decode_all, fit_all
from mobilenas.data.tars import index_tars

_HELD_BYTES = 2 << 30  # of decoded images, from which on they are streamed

Loaded = tuple[tuple[str, ...], Images, Images | None]  # classes, train, test


def load_data(source: str, resolution: int, crop: float = 1.0) -> ImageData:
    """Load the data set that `source` names, as images of `resolution` x `resolution` pixels.

    `source` is one of
    - `digits`: scikit-learn's 1,797 handwritten digits, enlarged; every fifth of a class is test;
    - a folder of class folders, DIR/CLASS/*.jpg, or DIR/train/CLASS/* with DIR/test or DIR/val;
    - parquet files as Hugging Face data sets have them (a folder, a file, or files separated by
      commas): column `img` or `image` with bytes, column `label`. Files with a word like `test` or
      `val` in their names (`test-00000.parquet`, `cifar10_val.parquet`) are the test part, unless
      there are no others;
    - WebDataset shards, in the same way: *.tar with KEY.jpg (jpeg, png, webp) and KEY.cls, a number
      from 0; a file classes.txt beside them, one name a line, names the classes;
    - `cifar10:DIR` or `cifar100:DIR`: the python version that torchvision reads.

    Other sizes are scaled (short side to `resolution`, antialiased) and cropped at the centre; with
    `crop` below 1 all are, and of the short side this share is kept (`short_side` of pixels.py);
    grey, palette and alpha images become RGB, the alpha is dropped.

    Raises BadInput where the source is missing, damaged, inconsistent or larger than memory.
    """
    if resolution < 1:
        raise BadInput(f"resolution {resolution}: must be at least 1 pixel")
    if not 0 < crop <= 1:
        raise BadInput(f"crop {crop}: must be a share above 0, up to 1")
    kind, colon, folder = source.partition(":")
    if source == "digits":
        name, (classes, train, test) = source, _digits(resolution, crop)
    elif colon and kind in ("cifar10", "cifar100"):
        root = Path(folder).expanduser()
        name, (classes, train, test) = kind, _cifar(kind, root, resolution, crop)
    else:
        name, (classes, train, test) = _name(source), _files(source, resolution, crop)
    _check_classes(source, train)
    mean, std = channel_statistics(train.pixels)
    return ImageData(name, train, test, classes, mean, std)


def open_data(source: str) -> ImageData:
    """Index the files that `source` names: class folders, parquet or tar files as in `load_data`.

    Labels and classes are those of `load_data`. Raises BadInput where the source is missing or
    inconsistent; a damaged image is found when it is read.
    """
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # slow to import

    if _is_held(source):
        raise BadInput(
            f"{source} is always held in memory; class folders, parquet and tar files are streamed"
        )
    classes, train, test = _index(source)
    _check_classes(source, train)
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return ImageData(_name(source), train, test, classes, mean, std)


def read_data(
    source: str, resolution: int, crop: float = 1.0, *, stream: bool | None = None
) -> ImageData:
    """`open_data` if `stream`, `load_data` if not; None streams what would take more than 2 GiB
    decoded. Raises BadInput as these do.
    """
    if stream is None and not _is_held(source):
        opened = open_data(source)
        images = len(opened.train) + len(opened.test or ())
        if images * resolution * resolution * 3 > _HELD_BYTES:
            return opened
    return open_data(source) if stream else load_data(source, resolution, crop)


def _is_held(source: str) -> bool:
    """Whether it is small, and there is no other way than to hold it in memory."""
    return source == "digits" or source.startswith(("cifar10:", "cifar100:"))


def _name(source: str) -> str:
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() else source


def _check_classes(source: str, train: Part) -> None:
    present = len(np.unique(train.labels))
    if present < 2:
        raise BadInput(
            f"{source}: training images of {present} class; there must be at least 2 classes"
        )


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
    classes, train, test = _index(source)
    check_memory(source, len(train) + (len(test) if test else 0), resolution)
    decoded = [
        Images(decode_all(part, resolution, crop), part.labels) for part in (train, test) if part
    ]
    return classes, decoded[0], decoded[1] if test else None


def _index(source: str) -> Indexed:
    whole = Path(source).expanduser()
    names = [source] if whole.exists() else source.split(",")
    paths = [Path(name.strip()).expanduser() for name in names]
    for name, path in zip(names, paths, strict=True):
        if not name.strip() or not path.exists():
            raise BadInput(
                f"data {name.strip()!r} does not exist; it must be digits, a folder of class "
                "folders, parquet or tar files, cifar10:DIR or cifar100:DIR"
            )
    if whole.is_dir():
        paths = sorted(whole.glob("*.parquet")) or sorted(whole.glob("*.tar"))
        if not paths:
            return index_folders(whole)
    return index_tars(paths) if paths[0].suffix == ".tar" else index_parquet(paths)
