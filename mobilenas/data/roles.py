"""Which part of a data set a folder or a file holds, by its name.

The words are those of Hugging Face's `datasets` (Structure your repository), plus `trainval`.
"""

import logging
import re
from pathlib import Path
from typing import Literal

from mobilenas.base.errors import BadInput

logger = logging.getLogger(__name__)

Role = Literal["train", "validation", "test"]

_WORDS: dict[Role, str] = {
    "validation": "validation|valid|val|dev",
    "test": "tests?|testing|eval|evaluation",
    "train": "train|training|trainval",
}


def role_of(name: str) -> Role | None:
    """The part that a name stands for, in any case; None for the name of something else."""
    return _find(r"({})", name)


def role_in(name: str) -> Role | None:
    """The part that a word of a name stands for: valley.parquet and latest.tar are none, numbers
    may follow: test01. Of several words `train` counts last.
    """
    return _find(r"(?:.*[-_. ])?({})(?![a-z]).*", name)


def _find(pattern: str, name: str) -> Role | None:
    for role, words in _WORDS.items():
        if re.fullmatch(pattern.format(words), name, re.IGNORECASE):
            return role
    return None


def split_files(files: list[Path], root: Path | None = None) -> dict[Role, list[Path]]:
    """Data files by the part they hold, which is `train` where neither the name of the file nor
    that of a folder says more. Where all are of one part, that is the training part.

    root: the folder that they were found in; None for files that the user listed, of which the
    folder that each lies in counts. Raises BadInput where there is no training part, or the files
    of a part are of several data sets.
    """
    parts: dict[Role, list[Path]] = {}
    sets: dict[Path, Path] = {}  # folders without the words for a part -> a file there
    for file in files:
        found = role_in(file.name)
        if root:
            folders = file.parent.relative_to(root).parts
            roles = [role for name in folders if (role := role_in(name))]
            found = found or (roles[-1] if roles else None)
            sets.setdefault(Path(*(name for name in folders if not role_in(name))), file)
        else:
            found = found or role_of(file.parent.name)
        parts.setdefault(found or "train", []).append(file)
    if len(sets) > 1:
        one, other, *_ = sets.values()
        raise BadInput(
            f"{root}: files of more than one data set, such as {one} and {other}; name the folder "
            "of one of them, or its files with commas between"
        )
    if "train" in parts:
        return parts
    if len(parts) > 1:
        raise BadInput(f"{files[0].parent}: no training part, only {' and '.join(parts)}")
    logger.warning("%s: no training files beside it, so this is the training part", files[0])
    return {"train": files}
