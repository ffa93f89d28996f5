"""Accuracies of archs that were trained stand-alone, from a file; what a ranking is compared with.

Equal networks under several names count once, under their canonical arch.
"""

import csv
import io
import json
import logging
import math
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from mobilenas.base.errors import BadInput, one_line
from mobilenas.base.plain import read_bytes
from mobilenas.cost.model import flops_and_params
from mobilenas.runs import RunFolder
from mobilenas.space import AnyArch, AnySpace

log = logging.getLogger(__name__)

MIN_ARCHS = 3  # below which there is no order to speak of
COLUMNS = ("arch", "accuracy")
# In columns that may be missing: of the training images, and of the space.
DATA_CHECKSUM, SPACE_CHECKSUM = "data_checksum", "space_checksum"
_OTHER = {
    DATA_CHECKSUM: "other images, or of the same at another resolution",
    SPACE_CHECKSUM: "a network of another space, if of the same name",
}
FARTHEST = 0.2  # between the accuracies of equal networks: more is no noise of training

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Truth:
    """True accuracies of distinct networks.

    source: the file and what it is. archs: canonical, distinct; accuracy: (archs,) in 0..1.
    costs: "flops" and "params", (archs,) each; of a benchmark at the size it was trained at, of a
    user's file at the size of the space. ceiling: Kendall's tau-b between one training of all the
    networks and another, mean over the pairs of trainings; None where only one is known.
    """

    source: str
    archs: tuple[AnyArch, ...]
    accuracy: Floats
    costs: dict[str, NDArray[np.int64]]
    ceiling: float | None = None

    def in_order(self) -> "Truth":
        """The same archs from the worst to the best, whatever their order in a file: what a search
        finds must not depend on it, and regularised evolution forgets the first ones first.
        """
        order = np.lexsort((np.array(list(map(str, self.archs))), self.accuracy))
        costs = {name: values[order] for name, values in self.costs.items()}
        archs = tuple(self.archs[row] for row in order)
        return replace(self, archs=archs, accuracy=self.accuracy[order], costs=costs)


@dataclass(frozen=True)
class _Row:
    place: str  # in the file, as "line 3"
    arch: object
    accuracy: object
    data_checksum: object = None
    space_checksum: object = None


def read_truth(path: Path, space: AnySpace, run: RunFolder | None = None) -> Truth:
    """A CSV (.csv) or parquet (.parquet) file with the columns arch and accuracy, and maybe
    data_checksum, of the training images, and space_checksum; others are ignored.

    Accuracies are in 0..1, or in percent if one is above 1. Those of equal networks are averaged.
    run: a training whose images must be the same, where both are known.
    Raises BadInput naming file and line (parquet: row) for an arch of another space, an accuracy
    that is none, scales that are mixed, equal networks that differ by more than `FARTHEST`, other
    images than those of the run, and a file that is unfit as whole.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise BadInput(f"{path}: a truth file ends in .csv or .parquet")
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    rows = readers[path.suffix](path)
    names, accuracy = _names(path, rows, space), _fractions(path, rows)
    _check_checksums(
        path, rows, SPACE_CHECKSUM, space_checksum(space), f"those of space {space.name}"
    )
    if run is not None and DATA_CHECKSUM in run.facts:
        images = f"the images of {run.path}"
        _check_checksums(path, rows, DATA_CHECKSUM, run.facts[DATA_CHECKSUM], images)
    _check_equal_ones(path, rows, names, accuracy)
    archs, means = distinct_means(path, names, accuracy[:, None])
    return Truth(path.name, archs, means[:, 0], flops_and_params(space, archs))


def _read_csv(path: Path) -> list[_Row]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        columns = _columns(path, header)
        rows = []
        for fields in filter(None, reader):
            place = f"line {reader.line_num}"
            if len(fields) != len(header):
                raise BadInput(
                    f"{path} {place}: {len(fields)} fields, the header has {len(header)}"
                )
            rows.append(_Row(place, **{name: fields[at] for name, at in columns.items()}))
        return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a CSV file: {error}") from None


def _read_parquet(path: Path) -> list[_Row]:
    try:
        table = parquet.ParquetFile(path).read()
        at = _columns(path, table.column_names)
        columns = [table.column(number).to_pylist() for number in at.values()]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not parquet: {one_line(error)}") from None
    rows = (dict(zip(at, row, strict=True)) for row in zip(*columns, strict=True))
    return [_Row(f"row {number}", **row) for number, row in enumerate(rows, start=1)]


def _columns(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Where the fields of a `_Row` are; those that may be missing, where they are there."""
    columns = [*COLUMNS, *(name for name in (DATA_CHECKSUM, SPACE_CHECKSUM) if name in names)]
    for column in columns:
        if list(names).count(column) != 1:
            raise BadInput(
                f"{path}: there must be one column {column!r}, "
                f"there are {', '.join(names) or 'none'}"
            )
    return {column: list(names).index(column) for column in columns}


def _names(path: Path, rows: Sequence[_Row], space: AnySpace) -> list[AnyArch]:
    """The canonical archs of the rows."""
    names: list[AnyArch] = []
    for row in rows:
        try:
            arch = space.parse(str(row.arch))
        except BadInput as error:
            raise BadInput(
                f"{path} {row.place}: {row.arch!r} is no arch of space {space.name}: {error}"
            ) from None
        names.append(space.canonical(arch))  # type: ignore[arg-type]  # it is its own
    return names


def _fractions(path: Path, rows: Sequence[_Row]) -> Floats:
    """The accuracies in 0..1, of rows that are all in 0..1 or all in percent."""
    values = [_accuracy(path, row) for row in rows]
    highest = max(values, default=0.0)
    if highest <= 1:
        return np.array(values)
    for row, value in zip(rows, values, strict=True):
        if 0 < value <= 1:
            percent = rows[values.index(highest)].place
            raise BadInput(
                f"{path} {row.place}: accuracy {value:g} beside {highest:g} in {percent}; give all "
                "in 0..1 or all in percent"
            )
    return np.array(values) / 100


def _accuracy(path: Path, row: _Row) -> float:
    given = row.accuracy
    try:
        # True is 1 and 0_9 is 9 to Python; neither is what a person means.
        odd = isinstance(given, bool | np.bool_) or "_" in str(given)
        value = math.nan if odd else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 100:
        raise BadInput(
            f"{path} {row.place}: accuracy {row.accuracy!r} is no number in 0..1 or 0..100"
        )
    return value


def _check_equal_ones(
    path: Path, rows: Sequence[_Row], names: Sequence[AnyArch], accuracy: Floats
) -> None:
    """Raise BadInput where the accuracies of equal networks are too far apart to be noise."""
    lowest: dict[AnyArch, int] = {}
    highest: dict[AnyArch, int] = {}
    for number, name in enumerate(names):
        for extreme, of in ((lowest, min), (highest, max)):
            other = extreme.setdefault(name, number)
            extreme[name] = of(other, number, key=lambda i: accuracy[i])
            if abs(accuracy[number] - accuracy[other]) <= FARTHEST:
                continue
            here, there = (f"{100 * accuracy[i]:g} % in {rows[i].place}" for i in (number, other))
            raise BadInput(
                f"{path}: {rows[number].arch} has {here}, and {rows[other].arch}, the same "
                f"network, {there}: more than {100 * FARTHEST:g} points apart, one of them is wrong"
            )


def space_checksum(space: AnySpace) -> int:
    """Of all that makes the networks of a space: what it is called is no part of it."""
    own = {key: x for key, x in space.to_dict().items() if key not in ("name", "description")}
    return zlib.crc32(json.dumps(own, sort_keys=True).encode())


def _check_checksums(
    path: Path, rows: Sequence[_Row], column: str, known: int | None, what: str
) -> None:
    """Raise BadInput where a row is of something else than `what`, whose checksum is known."""
    for row in rows:
        checksum = _checksum(path, row, column)
        if None not in (known, checksum) and checksum != known:
            raise BadInput(
                f"{path} {row.place}: {column} {checksum}, but {what} have {known}: the accuracy "
                f"is of {_OTHER[column]}; without the column they are compared all the same"
            )


def _checksum(path: Path, row: _Row, column: str) -> int | None:
    """A checksum of a row; None where it is left open."""
    value = getattr(row, column)
    if value in (None, ""):
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f"{path} {row.place}: {column} {value!r} is no whole number") from None


def distinct_means(
    path: Path, names: Sequence[AnyArch], values: Floats
) -> tuple[tuple[AnyArch, ...], Floats]:
    """Each of the names (rows,) once, and the means of its values (rows, columns)."""
    rows: dict[AnyArch, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rows[name].append(row)
    if len(rows) < MIN_ARCHS:
        raise BadInput(
            f"{path} has {len(rows)} distinct networks; there must be at least {MIN_ARCHS}"
        )
    if len(rows) < len(names):
        text = "%s: its %d archs are %d distinct networks, accuracies of equal ones are averaged"
        log.info(text, path, len(names), len(rows))
    return tuple(rows), np.stack([values[same].mean(axis=0) for same in rows.values()])
