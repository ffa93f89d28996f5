"""Places that a run remembers: a path, or what names a data set, with its paths in it.

Each is stored as an absolute one and as one relative to the run folder, so that it is found again
when all has moved together, and when the run folder alone has.
"""

import os
from collections.abc import Callable
from pathlib import Path

from mobilenas.base.data_name import DataName, exists


def absolute(place: str) -> str:
    """With absolute paths."""
    return _changed(place, Path.absolute, Path())


def relative_to(folder: Path, place: str) -> str:
    """With paths as they are seen from a folder, of one with absolute paths."""
    base = os.path.realpath(folder)

    def seen(path: Path) -> Path:  # a link stays one: it is what the user named
        return Path(os.path.relpath(Path(os.path.realpath(path.parent)) / path.name, base))

    return _changed(place, seen, Path())


def seen_from(folder: Path, place: str) -> str:
    """The inverse of `relative_to`."""
    base = Path(os.path.realpath(folder))
    return _changed(place, lambda path: Path(os.path.normpath(base / path)), base)


def _changed(place: str, change: Callable[[Path], Path], base: Path) -> str:
    """With other paths. What is there as a whole is one, whatever is in its name: `a,b` may be a
    folder. base: where relative ones start.
    """
    known = DataName.parse(place)
    if known.paths and exists(base / place):
        return str(change(Path(place)))
    return known.with_paths(change)


def has_paths(place: str) -> bool:
    """Whether it is somewhere on disk: the data set `digits` is built in."""
    return bool(DataName.parse(place).paths)


def is_there(place: str) -> bool:
    """Whether all of its paths exist."""
    paths = DataName.parse(place).paths
    return all(map(exists, paths)) or exists(Path(place))
