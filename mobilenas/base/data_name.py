"""What names a data set, the value of `--data`, in its parts: no file is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.files import user_path

_STARTS = ("cifar10:", "cifar100:")


@dataclass(frozen=True)
class DataName:
    """start: `digits`, `cifar10:`, `cifar100:` or nothing; paths: of a folder or of files; options:
    what follows after the first semicolon.
    """

    start: str
    paths: tuple[Path, ...]
    options: str

    @classmethod
    def parse(cls, text: str) -> "DataName":
        """A path that exists may have commas and semicolons in it; a folder `digits` is `./digits`,
        so that what lies about does not stand for the built-in data. Raises BadInput where a name
        between commas is empty, which would be the folder that one is in.
        """
        named, _, options = text.partition(";")
        if named == "digits":
            return cls(named, (), options)
        whole = user_path(text)
        if text and exists(whole):
            return cls("", (whole,), "")
        start = next((start for start in _STARTS if named.startswith(start)), "")
        named = named.removeprefix(start)
        whole = user_path(named)
        names = [named] if start or exists(whole) else named.split(",")
        if not all(name.strip() for name in names):
            raise BadInput(
                f"data {shortened(text)!r}: a name in it is empty; it must be digits, a folder, "
                "files with commas between, cifar10:DIR or cifar100:DIR"
            )
        return cls(start, tuple(user_path(name.strip()) for name in names), options)

    def with_paths(self, change: Callable[[Path], Path]) -> str:
        """The name with other paths."""
        end = f";{self.options}" if self.options else ""
        return self.start + ",".join(str(change(path)) for path in self.paths) + end


def exists(path: Path) -> bool:
    """Whether a path is there; the names of many files in one are too long for one."""
    try:
        return path.exists()
    except OSError:
        return False
