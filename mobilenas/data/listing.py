"""The files of a folder and of all below it, without hidden ones."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mobilenas.base.errors import BadInput, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")

HIDDEN, BROKEN, CIRCLES = "hidden files", "links to nothing", "links to a folder they are in"


@dataclass
class Folder:
    """A folder: the names of its files, and the folders in it by their names."""

    path: Path
    files: list[str] = field(default_factory=list)
    folders: dict[str, "Folder"] = field(default_factory=dict)

    def walk(self) -> Iterator[Path]:
        """All files in it and below, as sorted paths are."""
        for name in sorted([*self.files, *self.folders]):
            if name in self.folders:
                yield from self.folders[name].walk()
            else:
                yield self.path / name

    def images(self) -> list[Path]:
        """The image files in it and below."""
        return [path for path in self.walk() if is_image(path)]

    def own_images(self) -> list[Path]:
        """The image files in the folder itself."""
        return [self.path / name for name in sorted(self.files) if is_image(self.path / name)]


def is_image(path: Path) -> bool:
    """Whether it is an image by its name."""
    return path.suffix.lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data by its name: .DS_Store, ._0.png, .ipynb_checkpoints, and
    the folder that macOS adds to archives.
    """
    return name.startswith(".") or name == "__MACOSX"


def scan(root: Path, left_out: Counter[str]) -> Folder:
    """All of a folder. Links are followed, but none to a folder that the link itself is in.

    left_out: is given the numbers of the files that are left out, by the reason. Raises BadInput
    naming a folder that cannot be read.
    """
    return _scan(root, left_out, ())


def _scan(path: Path, left_out: Counter[str], above: tuple[tuple[int, int], ...]) -> Folder:
    try:
        status = path.stat()
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise BadInput(f"{path}: the folder cannot be read ({one_line(error)})") from error
    here = (*above, (status.st_dev, status.st_ino))
    folder = Folder(path)
    for entry in entries:
        # What a link leads to is asked of Path, which takes one that leads nowhere.
        target = Path(entry.path) if entry.is_symlink() else entry
        if is_hidden(entry.name):
            left_out[HIDDEN] += _count(Path(entry.path))
        elif target.is_dir():
            inner = target.stat()
            if (inner.st_dev, inner.st_ino) in here:
                left_out[CIRCLES] += 1
            else:
                folder.folders[entry.name] = _scan(path / entry.name, left_out, here)
        elif target.is_file():
            folder.files.append(entry.name)
        elif entry.is_symlink():
            left_out[BROKEN] += 1
    return folder


def _count(path: Path) -> int:
    """The number of files that this is or holds."""
    if path.is_dir() and not path.is_symlink():
        return sum(found.is_file() for found in path.rglob("*"))
    return 1
