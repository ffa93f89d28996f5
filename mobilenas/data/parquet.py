"""Index parquet files as Hugging Face data sets have them: an image column and `label`."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mobilenas.base.errors import BadInput, one_line
from mobilenas.data.images import EncodedImages, Indexed
from mobilenas.data.order import WINDOW_BYTES, Blocks
from mobilenas.data.shards import name_classes, split_files


@dataclass(frozen=True, eq=False)
class _Index:
    """What is known of a file before an image is read."""

    file: Path
    column: str  # of the encoded images, as parquet names it
    labels: npt.NDArray[np.int64]  # (N,)
    names: tuple[str, ...] | None  # of the classes
    metadata: Any  # pyarrow's, kept because reading it again for each row group is slow


class ParquetImages(EncodedImages):
    """The rows of parquet files. Row groups are read as a whole, and a window of them is kept."""

    def __init__(self, files: list[_Index]) -> None:
        self.labels = np.concatenate([file.labels for file in files])
        starts, sizes = [], []
        self._groups: list[tuple[_Index, int, int]] = []  # file, row group in it, first row of it
        index = 0
        for file in files:
            row = 0
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                starts.append(index + row)
                sizes.append(group.total_byte_size)  # not compressed
                self._groups.append((file, number, row))
                row += group.num_rows
            index += row
        self.blocks = Blocks(np.array(starts), np.array(sizes))
        self._kept: OrderedDict[int, Any] = OrderedDict()  # columns of row groups, last used last

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}

    def name(self, index: int) -> str:
        block, row = self._place(index)
        file, _, first = self._groups[block]
        return f"{file.file}, row {first + row}"

    def read(self, index: int) -> bytes | None:
        block, row = self._place(index)
        if block not in self._kept:
            self._make_room(block)
            self._kept[block] = _read_group(*self._groups[block][:2])
        self._kept.move_to_end(block)
        encoded: bytes | None = self._kept[block][row].as_py()
        return encoded

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the row group and the row in it."""
        assert self.blocks is not None
        block = int(np.searchsorted(self.blocks.starts, index, side="right")) - 1
        return block, int(index - self.blocks.starts[block])

    def _make_room(self, block: int) -> None:
        assert self.blocks is not None
        sizes = self.blocks.sizes
        # The blocks of a window (order.shuffle) exceed its size by less than one block.
        limit = WINDOW_BYTES + sizes.max()
        while self._kept and sizes[[*self._kept, block]].sum() > limit:
            self._kept.popitem(last=False)


def index_parquet(files: list[Path]) -> Indexed:
    """Raises BadInput where a file is damaged, or has other columns or classes than it must."""
    train_files, test_files = split_files(files)
    read = {file: _index_file(file) for file in files}
    names = read[train_files[0]].names
    for file in files:
        if read[file].names != names:
            raise BadInput(f"{file}: class names differ from those of {train_files[0]}")
    train = ParquetImages([read[file] for file in train_files])
    test = ParquetImages([read[file] for file in test_files]) if test_files else None
    return name_classes(names, train, test), train, test


def _index_file(file: Path) -> _Index:
    with _damage_named(file), pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        column = _image_column(file, schema)
        labels = opened.read(columns=["label"], use_threads=False)["label"]
        metadata = opened.metadata
    if not len(labels):
        raise BadInput(f"{file}: no rows; there must be one at least")
    if labels.null_count:
        row = np.flatnonzero(labels.is_null().to_numpy())[0]
        raise BadInput(f"{file}, row {row}: label is null; it must be an integer")
    features = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
    names = features.get("info", {}).get("features", {}).get("label", {}).get("names")
    return _Index(
        file=file,
        column=column,
        labels=labels.to_numpy().astype(np.int64),
        names=tuple(names) if names else None,
        metadata=metadata,
    )


def _image_column(file: Path, schema: Any) -> str:
    there = schema.names
    images = [name for name in there if name in ("img", "image")]
    if "label" not in there or not images:
        raise BadInput(
            f"{file}: there must be columns img (or image) and label, not only {', '.join(there)}"
        )
    if not pa.types.is_integer(schema.field("label").type):
        kind = schema.field("label").type
        raise BadInput(f"{file}: column label holds {kind}; it must hold integers")
    whole = schema.field(images[0]).type
    nested = pa.types.is_struct(whole) and whole.get_field_index("bytes") >= 0
    kind = whole.field("bytes").type if nested else whole
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise BadInput(f"{file}: column {images[0]} holds {whole}; it must hold bytes")
    return f"{images[0]}.bytes" if nested else images[0]


def _read_group(index: _Index, group: int) -> Any:
    """The encoded images of a row group, an arrow column of bytes."""
    # Opened for each: a handle would not survive the fork to a worker process, nor would threads.
    with (
        _damage_named(index.file),
        pq.ParquetFile(index.file, metadata=index.metadata) as opened,
    ):
        table = opened.read_row_group(group, columns=[index.column], use_threads=False)
    return table.flatten().column(0)


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file}: cannot be read as parquet ({one_line(error)})") from error
