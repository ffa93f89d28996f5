"""Index parquet files as Hugging Face data sets have them: a column of images, one of labels."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.plain import parse_json
from mobilenas.data.images import EncodedImages
from mobilenas.data.indexed import Indexed, make_indexed
from mobilenas.data.order import WINDOW_BYTES, Blocks
from mobilenas.data.roles import Role


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


@dataclass(frozen=True)
class Columns:
    """The names of the columns, None for the usual ones: `img` or `image`, and `label`."""

    image: str | None = None
    label: str | None = None


def index_parquet(
    files: Mapping[Role, list[Path]], columns: Columns, left_out: Counter[str]
) -> Indexed:
    """Raises BadInput where a file is damaged, or has other columns or classes than it must."""
    parts: dict[Role, EncodedImages] = {}
    first = files["train"][0]
    names = None
    for role in sorted(files, key=lambda role: role != "train"):
        read = [_index_file(file, columns, role) for file in files[role]]
        if role == "train":
            names = read[0].names
        for index in read:
            if index.names != names and not (index.labels < 0).all():
                raise BadInput(f"{index.file}: class names differ from those of {first}")
        parts[role] = ParquetImages(read)
    return make_indexed(parts, names, left_out)


def _index_file(file: Path, columns: Columns, role: Role) -> _Index:
    label = columns.label or "label"
    with _damage_named(file), pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        metadata = opened.metadata
        if role != "train" and label not in schema.names:  # as the test parts of contests are
            labels = np.full(metadata.num_rows, -1, dtype=np.int64)
        else:
            _check_label(file, schema, columns)
            labels = _labels(file, opened.read(columns=[label], use_threads=False)[label], role)
        column = _image_column(file, schema, columns)
    if not len(labels):
        raise BadInput(f"{file}: no rows; there must be one at least")
    return _Index(file, column, labels, _class_names(file, schema, label), metadata)


def _class_names(file: Path, schema: Any, label: str) -> tuple[str, ...] | None:
    """The names that Hugging Face's `datasets` stores of a column of labels, None for none."""
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    names = parse_json(stored, f"{file}: its huggingface metadata")
    for key in ("info", "features", label, "names"):
        names = names.get(key) if isinstance(names, dict) else None
    if names and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise BadInput(f"{file}: class names in its huggingface metadata must be a list of words")
    return tuple(names) if names else None


def _labels(file: Path, column: Any, role: Role) -> npt.NDArray[np.int64]:
    if column.null_count and (role == "train" or column.null_count < len(column)):
        row = np.flatnonzero(column.is_null().to_numpy())[0]
        raise BadInput(f"{file}, row {row}: label is null; it must be an integer")
    labels: npt.NDArray[np.int64] = column.cast("int64").fill_null(-1).to_numpy()
    return labels


def _check_label(file: Path, schema: Any, columns: Columns) -> None:
    label = columns.label or "label"
    if label not in schema.names:
        raise BadInput(_no_column(file, schema, "label", columns.label))
    kind = schema.field(label).type
    if not pa.types.is_integer(kind):
        raise BadInput(f"{file}: column {label} holds {kind}; it must hold integers")


def _image_column(file: Path, schema: Any, columns: Columns) -> str:
    usual = (columns.image,) if columns.image else ("img", "image")
    name = next((name for name in schema.names if name in usual), None)
    if name is None:
        raise BadInput(_no_column(file, schema, "image", columns.image))
    whole = schema.field(name).type
    nested = pa.types.is_struct(whole) and whole.get_field_index("bytes") >= 0
    kind = whole.field("bytes").type if nested else whole
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise BadInput(f"{file}: column {name} holds {whole}; it must hold bytes")
    return f"{name}.bytes" if nested else name


def _no_column(file: Path, schema: Any, what: str, asked: str | None) -> str:
    there = ", ".join(schema.names)
    if asked:
        return f"{file}: no column {asked}; there are {there}"
    return (
        f"{file}: there must be columns img (or image) and label, not only {there}; "
        f'--data "...;{what}=NAME" names another'
    )


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
