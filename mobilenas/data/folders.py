"""Index folders of images: DIR/CLASS/*, the same in DIR/train and DIR/test, or a metadata.csv."""

import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.data.images import EncodedImages
from mobilenas.data.indexed import Indexed, make_indexed
from mobilenas.data.listing import SUFFIXES, Folder, is_image, scan
from mobilenas.data.metadata import METADATA, read_metadata
from mobilenas.data.roles import Role, role_in, role_of
from mobilenas.data.splits import Indices

logger = logging.getLogger(__name__)

Named = list[tuple[Path, str | None]]  # image files and their classes, None without labels


class ImageFiles(EncodedImages):
    """Image files below `root`, with their labels."""

    def __init__(self, root: Path, files: list[Path], labels: Indices) -> None:
        self.labels = labels
        self._root = root
        # An array: a list of paths is larger, and each worker process would come to copy it.
        self._files = np.array([os.fsencode(path.relative_to(root)) for path in files], dtype="S")

    def name(self, index: int) -> str:
        return str(self.read(index))

    def read(self, index: int) -> Path:
        return self._root / os.fsdecode(self._files[index])


def loose_images(root: Path, left_out: Counter[str]) -> ImageFiles:
    """The images that lie in `root` itself, without classes: all labels are -1."""
    files = scan(root, left_out).own_images()
    return ImageFiles(root, files, np.full(len(files), -1, dtype=np.int64))


def index_folders(root: Folder, left_out: Counter[str], label: str | None) -> Indexed:
    """The images of a folder. label: the column of metadata.csv that holds the classes.

    Raises BadInput where it cannot be told which folders are classes and which are parts of the
    data, where a class has no training images, or the test part has a class of its own; and for a
    column where there is no such table.
    """
    root = _entered(root)
    if METADATA in root.files:
        table = root
        parts = _parts_of(_listed(root, left_out, label), root.path)
    else:
        folders = _parts(root, left_out)
        table = folders["train"]
        if label and not any(METADATA in part.files for part in folders.values()):
            raise BadInput(
                f"{root.path}: label={label} is a column of {METADATA}, and none is there"
            )
        parts = {role: _named(part, role, left_out, label) for role, part in folders.items()}
    found = {name for _, name in parts["train"] if name is not None}
    if not found:
        raise BadInput(f"{table.path / METADATA}: there must be a column {label or 'label'}")
    # In the order of their names, as torchvision has them; numbers of a table in theirs.
    counted = METADATA in table.files and all(name.isdecimal() for name in found)
    classes = tuple(sorted(found, key=lambda name: (int(name) if counted else 0, name)))
    numbers = {name: number for number, name in enumerate(classes)}
    images: dict[Role, EncodedImages] = {}
    for role, named in parts.items():
        for path, name in named:
            if name is not None and name not in numbers:
                raise BadInput(f"{path}: class {name!r} has no images in the training part")
        labels = np.array([numbers.get(name or "", -1) for _, name in named], dtype=np.int64)
        images[role] = ImageFiles(root.path, [path for path, _ in named], labels)
    return make_indexed(images, classes, left_out)


def _entered(root: Folder) -> Folder:
    """The folder itself, or the only one in it, as archives often unpack to."""
    while len(root.folders) == 1 and not root.own_images() and METADATA not in root.files:
        (inner,) = root.folders.values()
        if not inner.folders and METADATA not in inner.files:
            break
        root = inner
    return root


# --- parts --------------------------------------------------------------------------------------


def _parts(root: Folder, left_out: Counter[str]) -> dict[Role, Folder]:
    """The folders of the parts; where there are none, the folder itself is for training."""
    named = _roles(root)
    parts = {role: root.folders[name] for name, role in named.items()}
    for role in parts:
        alike = [name for name in named if named[name] == role]
        if len(alike) > 1:
            raise BadInput(f"{root.path}: {_and(alike)} are names of one part; leave one of them")
    others = {name: folder for name, folder in root.folders.items() if name not in named}
    train = parts.pop("train", None)
    if train is None or (others and not parts and not _has_classes(train)):
        # No parts; or a class `train`, of vehicles, say; or the classes lie beside the test part.
        train = Folder(root.path, root.files, root.folders if not parts else others)
        if not others and parts:
            raise BadInput(
                f"{root.path}: no training part beside {_and(named)}; it must be in "
                f"{root.path / 'train'}"
            )
        for part in parts.values():
            if not part.folders.keys() & others.keys():
                raise BadInput(
                    f"{part.path}: is it a class or a part of the data? Rename a class; a part "
                    f"holds folders of the classes ({_and(list(others)[:3])} ...)"
                )
    else:
        aside = sum(len(folder.images()) for folder in others.values()) + len(root.own_images())
        left_out["images in neither part"] += aside
        train = _entered(train)
    for role, part in parts.items():
        if not part.folders.keys() & train.folders.keys():
            parts[role] = _entered(part)
    return {"train": train, **parts}


def _roles(root: Folder) -> dict[str, Role]:
    """Which of the folders in it are parts of the data, by their names."""
    roles = {name: role for name in root.folders if (role := role_of(name))}
    # seg_train and seg_test are parts if they hold folders of the same names; a class may have
    # such a name too: test_tube.
    words = {name: role for name in root.folders if (role := role_in(name))}
    inside = {name: _entered(root.folders[name]).folders.keys() for name in words}
    alike = {
        name: role
        for name, role in words.items()
        if role not in roles.values()
        and any(len(inside[name] & inside[x]) > 1 for x in words if words[x] != role)
    }
    return roles | alike if roles or "train" in alike.values() else {}


def _has_classes(folder: Folder) -> bool:
    return bool(folder.folders) or METADATA in folder.files


# --- classes ------------------------------------------------------------------------------------


def _listed(folder: Folder, left_out: Counter[str], label: str | None) -> Named:
    """The images of a table in a folder, and their classes."""
    listed = read_metadata(folder.path, label)
    unlisted = set(folder.images()).difference(path for path, _ in listed)
    left_out[f"images that {METADATA} does not list"] += len(unlisted)
    return listed


def _named(folder: Folder, role: Role, left_out: Counter[str], label: str | None) -> Named:
    """The images of a part and their classes."""
    if METADATA in folder.files:
        return _listed(folder, left_out, label)
    own = folder.own_images()
    if own and not folder.folders and role != "train":
        return [(path, None) for path in own]
    if not folder.folders:
        raise BadInput(_no_classes(folder, own))
    left_out["images in no class folder"] += len(own)
    named: Named = []
    skipped: list[Path] = []
    for name, inner in folder.folders.items():
        _check_class(inner)
        there = list(inner.walk())
        images = [path for path in there if is_image(path)]
        if not images and role == "train":
            raise BadInput(f"{inner.path}: no images in this class folder ({', '.join(SUFFIXES)})")
        named += [(path, name) for path in images]
        skipped += [path for path in there if not is_image(path)]
    if skipped:
        logger.warning("%s: no images, left out: %s ...", folder.path, skipped[0])
        left_out["other files"] += len(skipped)
    return named


def _check_class(folder: Folder) -> None:
    try:
        folder.path.name.encode()
    except UnicodeEncodeError:
        raise BadInput(f"class folder {str(folder.path)!r}: its name is not UTF-8") from None
    roles = {name for name in folder.folders if role_of(name)}
    if len({role_of(name) for name in roles}) > 1:
        raise BadInput(
            f"{folder.path} holds parts of the data ({_and(sorted(roles))}): they must be outside "
            f"of the classes, as in {folder.path.parent / 'train' / folder.path.name}"
        )


def _no_classes(folder: Folder, own: list[Path]) -> str:
    """What to say of a training part without class folders."""
    if not own:
        return f"{folder.path}: neither class folders nor *.tar or *.parquet files in it"
    tables = sorted(x for place in (folder.path, folder.path.parent) for x in place.glob("*.csv"))
    unread = f"; {tables[0]} is not read" if tables else ""
    return (
        f"{folder.path}: {len(own)} images that are in no class folder{unread}; they must be in "
        f"{folder.path}/CLASS/, or {METADATA} beside them must list them (columns file_name, label)"
    )


def _parts_of(listed: Named, root: Path) -> dict[Role, Named]:
    """The parts of a table at the top, by the folders that the images are in."""
    parts: dict[Role, Named] = {}
    for path, name in listed:
        inner = path.relative_to(root).parts
        role = role_of(inner[0]) if len(inner) > 1 else None
        parts.setdefault(role or "train", []).append((path, name))
    if "train" not in parts:
        raise BadInput(f"{root / METADATA}: lists no images of a training part (train/...)")
    return parts


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
