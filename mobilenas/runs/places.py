"""Places that a run remembers: a path, or what names a data set, with its paths in it.

Each is stored as an absolute one and as one relative to the run folder, so that it is found again
when all has moved together, and when the run folder alone has.
"""

import os
from collections.abc import Callable
from pathlib import Path

_STARTS = ("cifar10:", "cifar100:")  # of the names of data sets


def absolute(place: str) -> str:
    """With absolute paths."""
    return _with_paths(place, Path.absolute)


def relative_to(folder: Path, place: str) -> str:
    """With paths as they are seen from a folder, of one with absolute paths."""
    base = os.path.realpath(folder)

    def seen(path: Path) -> Path:  # a link stays one: it is what the user named
        return Path(os.path.relpath(Path(os.path.realpath(path.parent)) / path.name, base))

    return _with_paths(place, seen)


def seen_from(folder: Path, place: str) -> str:
    """The inverse of `relative_to`."""
    base = os.path.realpath(folder)
    return _with_paths(place, lambda path: Path(os.path.normpath(base / path)))


def has_paths(place: str) -> bool:
    """Whether it is somewhere on disk: the data set `digits` is built in."""
    return bool(_split(place)[1])


def is_there(place: str) -> bool:
    """Whether all of its paths exist."""
    return all(path.exists() for path in _split(place)[1])


def _with_paths(place: str, change: Callable[[Path], Path]) -> str:
    start, paths, end = _split(place)
    return start + ",".join(str(change(path)) for path in paths) + end


def _split(place: str) -> tuple[str, list[Path], str]:
    """What stands before its paths, these, and the options after them."""
    if Path(place).expanduser().exists():
        return "", [Path(place).expanduser()], ""
    named, semicolon, options = place.partition(";")
    end = semicolon + options
    if named == "digits":
        return named, [], end
    for start in _STARTS:
        if named.startswith(start):
            return start, [Path(named.removeprefix(start)).expanduser()], end
    return "", [Path(name.strip()).expanduser() for name in named.split(",")], end
