"""Index class folders: DIR/CLASS/*, or DIR/train/CLASS/* with DIR/test or DIR/val."""

import logging
import os
from pathlib import Path

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.data.images import EncodedImages, Indexed

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")


class FolderImages(EncodedImages):
    """The image files of the class folders in `root`; classes in the order of their names."""

    def __init__(self, root: Path) -> None:
        folders = _class_folders(root)
        if not folders:
            raise BadInput(f"{root}: neither class folders nor *.tar or *.parquet files in it")
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
            first = skipped[0]
            logger.warning("%s: skipped %d files, no images: %s ...", root, len(skipped), first)
        self.classes = tuple(folder.name for folder in folders)
        self.labels = np.array(labels, dtype=np.int64)
        self._root = root
        # An array: a list of paths is larger, and each worker process would come to copy it.
        self._files = np.array([os.fsencode(path.relative_to(root)) for path in files])

    def name(self, index: int) -> str:
        return str(self.read(index))

    def read(self, index: int) -> Path:
        return self._root / os.fsdecode(self._files[index])


class LooseImages(EncodedImages):
    """The image files that lie in `root` itself, without classes: all labels are 0."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = sorted(path.name for path in root.iterdir() if _is_image(path))
        self.labels = np.zeros(len(self._names), dtype=np.int64)

    def name(self, index: int) -> str:
        return str(self.read(index))

    def read(self, index: int) -> Path:
        return self._root / self._names[index]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def index_folders(root: Path) -> Indexed:
    """Raises BadInput where a class has no images, or train and test have other classes."""
    # A folder `train` that holds images and no folders is a class (of vehicles, say).
    if not _class_folders(root / "train"):
        train = FolderImages(root)
        return train.classes, train, None
    train = FolderImages(root / "train")
    test_roots = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not test_roots:
        return train.classes, train, None
    if len(test_roots) > 1:
        logger.warning("%s: test is the test part, val is not used", root)
    test = FolderImages(test_roots[0])
    if test.classes != train.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))[0]
        raise BadInput(
            f"{test_roots[0]}: classes differ from those of {root / 'train'} (first: {odd}); "
            "both need the same folders"
        )
    return train.classes, train, test


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
