"""Index WebDataset shards: uncompressed tar files with KEY.jpg and KEY.cls for each sample.

The format: https://github.com/webdataset/webdataset. A file classes.txt in the folder of the data,
or beside the first training shard, names the classes, one a line.
"""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mobilenas.base.errors import BadInput, one_line
from mobilenas.data.images import EncodedImages
from mobilenas.data.indexed import Indexed, make_indexed
from mobilenas.data.listing import HIDDEN, is_hidden
from mobilenas.data.roles import Role

SUFFIXES = ("jpg", "jpeg", "png", "webp")
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # folder and name to its first dot; then the suffix


class TarImages(EncodedImages):
    """The samples of shards, in their order. The headers are read once, images by their offset."""

    def __init__(self, files: list[Path], left_out: Counter[str]) -> None:
        self._files = files
        samples = [
            (shard, *sample)
            for shard, file in enumerate(files)
            for sample in _index(file, left_out)
        ]
        shards, names, offsets, sizes, labels = zip(*samples, strict=True)
        self.labels = np.array(labels, dtype=np.int64)
        # Arrays: lists are larger, and each worker process would come to copy them.
        self._names = np.array(names)
        self._places: npt.NDArray[np.int64] = np.array([shards, offsets, sizes], dtype=np.int64)

    def name(self, index: int) -> str:
        return f"{self._files[self._places[0, index]]}, {os.fsdecode(self._names[index])}"

    def read(self, index: int) -> bytes:
        shard, offset, size = self._places[:, index].tolist()
        # Opened for each image: a handle shared with worker processes has one position for all.
        try:
            with self._files[shard].open("rb") as opened:
                opened.seek(offset)
                return opened.read(size)
        except OSError as error:
            raise BadInput(f"{self.name(index)}: cannot be read ({one_line(error)})") from error


def index_tars(files: Mapping[Role, list[Path]], root: Path, left_out: Counter[str]) -> Indexed:
    """root: the folder of the data. Raises BadInput where a file is no whole tar, a sample lacks
    its image or its class, or two classes have one name.
    """
    places = (root, files["train"][0].parent)
    listed = (path for place in places if (path := place / "classes.txt").is_file())
    names = next(map(_names, listed), None)
    parts: dict[Role, EncodedImages] = {
        role: TarImages(shards, left_out) for role, shards in files.items()
    }
    return make_indexed(parts, names, left_out)


def _names(listed: Path) -> tuple[str, ...]:
    lines = listed.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    for name, times in Counter(names).items():
        if times > 1:
            raise BadInput(f"{listed}: {name!r} is there {times} times; a class must have its own")
    return names


def _index(file: Path, left_out: Counter[str]) -> list[tuple[bytes, int, int, int]]:
    """Per sample the name of the image, its offset and size in bytes, and the label."""
    images: dict[str, tarfile.TarInfo] = {}
    classes: dict[str, str] = {}
    try:
        with tarfile.open(file, "r:") as opened:
            for member in opened:
                match = _KEY.fullmatch(member.name)
                if not member.isreg():
                    continue
                if member.issparse():  # its bytes do not lie in the file one after the other
                    raise BadInput(f"{file}, {member.name}: is stored sparse; write it whole")
                if any(is_hidden(name) for name in member.name.split("/") if name != "."):
                    left_out[HIDDEN] += 1
                    continue
                if not match:
                    continue
                key, suffix = match[1], match[2].lower()
                if suffix in SUFFIXES:
                    if key in images:
                        raise BadInput(f"{file}: two images {images[key].name} and {member.name}")
                    images[key] = member
                elif suffix == "cls":
                    content = opened.extractfile(member)
                    assert content is not None  # it is a regular file
                    classes[key] = content.read(100).decode("utf-8", "replace").strip()
            end = opened.offset
        _check_end(file, end)
    except BadInput:
        raise
    except (tarfile.TarError, OSError, ValueError, IndexError) as error:  # headers of any content
        raise BadInput(f"{file}: cannot be read as a tar file ({one_line(error)})") from error
    if not images:
        raise BadInput(f"{file}: no images in it ({', '.join(SUFFIXES)})")
    for key in sorted(images.keys() ^ classes.keys()):
        if key in images:
            raise BadInput(f"{file}, {images[key].name}: no {key}.cls beside it")
        raise BadInput(f"{file}, {key}.cls: no image beside it ({', '.join(SUFFIXES)})")
    return [
        (os.fsencode(image.name), image.offset_data, image.size, _label(file, key, classes[key]))
        for key, image in images.items()
    ]


def _label(file: Path, key: str, text: str) -> int:
    if not re.fullmatch(r"-1|[0-9]{1,9}", text):  # -1: not labelled, as a test part may be
        raise BadInput(f"{file}, {key}.cls: {text!r} is no class; it must be an integer from 0")
    return int(text)


def _check_end(file: Path, offset: int) -> None:
    """tarfile takes a damaged header for the end of the file; the end is a block of zeros."""
    with file.open("rb") as opened:
        opened.seek(offset)
        if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("damaged or cut off: the block of zeros at its end is missing")
