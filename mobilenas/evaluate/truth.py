"""The accuracies that a ranking is compared with: a file of the user's, or a published benchmark.

Equal networks under several names count once, under their canonical arch.
"""

import csv
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import kendalltau

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.base.settings import validated
from mobilenas.cost.model import flops_and_params
from mobilenas.space import AnyArch, AnySpace, Cell, CellSpace, Space, load_any_space, load_space

log = logging.getLogger(__name__)

MIN_ARCHS = 3  # below which there is no order to speak of
COLUMNS = ("arch", "accuracy")

Floats = NDArray[np.float64]
_Percent = Annotated[float, Field(ge=0, le=100)]
_MacroCode = Annotated[str, Field(pattern=r"^[012]{8}$")]


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


# --- a file of the user's -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    place: str  # in the file, as "line 3"
    arch: object
    accuracy: object


def read_truth(path: Path, space: AnySpace) -> Truth:
    """A CSV (.csv) or parquet (.parquet) file with the columns arch and accuracy, others ignored.

    Accuracies are in 0..1, or in percent if one is above 1. Those of equal networks are averaged.
    Raises BadInput naming file and line (parquet: row) for an arch of another space or one that is
    there twice, an accuracy that is none, scales that are mixed, and a file that is unfit as whole.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise BadInput(f"{path}: a truth file ends in .csv or .parquet")
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    rows = readers[path.suffix](path)
    names, accuracy = _names(path, rows, space), _fractions(path, rows)
    archs, means = _distinct(path, names, accuracy[:, None])
    return Truth(path.name, archs, means[:, 0], flops_and_params(space, archs))


def _read_csv(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            arch, accuracy = _column_numbers(path, header)
            rows = []
            for fields in filter(None, reader):
                place = f"line {reader.line_num}"
                if len(fields) != len(header):
                    raise BadInput(
                        f"{path} {place}: {len(fields)} fields, the header has {len(header)}"
                    )
                rows.append(_Row(place, fields[arch], fields[accuracy]))
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a CSV file: {error}") from None


def _read_parquet(path: Path) -> list[_Row]:
    try:
        table = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not parquet: {str(error).splitlines()[0]}") from None
    columns = (table.column(i).to_pylist() for i in _column_numbers(path, table.column_names))
    pairs = zip(*columns, strict=True)
    return [_Row(f"row {number}", *pair) for number, pair in enumerate(pairs, start=1)]


def _column_numbers(path: Path, names: Sequence[str]) -> list[int]:
    for column in COLUMNS:
        if list(names).count(column) != 1:
            raise BadInput(
                f"{path}: there must be one column {column!r}, "
                f"there are {', '.join(names) or 'none'}"
            )
    return [list(names).index(column) for column in COLUMNS]


def _names(path: Path, rows: Sequence[_Row], space: AnySpace) -> list[AnyArch]:
    """The canonical archs of the rows; no arch is there twice under one name."""
    places: dict[AnyArch, str] = {}
    for row in rows:
        try:
            arch = space.parse(str(row.arch))
        except BadInput as error:
            raise BadInput(
                f"{path} {row.place}: {row.arch!r} is no arch of space {space.name}: {error}"
            ) from None
        if arch in places:
            raise BadInput(
                f"{path} {row.place}: {arch} is in {places[arch]} too; give one row an arch"
            )
        places[arch] = row.place
    return [space.canonical(arch) for arch in places]  # type: ignore[arg-type]  # they are its own


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
    try:
        value = float(row.accuracy)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 100:
        raise BadInput(
            f"{path} {row.place}: accuracy {row.accuracy!r} is no number in 0..1 or 0..100"
        )
    return value


# --- benchmarks ---------------------------------------------------------------------------------

_FILES = {  # under the data root, and where each comes from
    "macro": (
        "nas_bench_macro/nas-bench-macro_cifar10.json",
        "data/nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro",
    ),
    "nb101": (
        "nas_bench_101/mixpath_subset.json",
        "made from github.com/google-research/nasbench as docs/ranking.md says",
    ),
}


def read_benchmark(name: str, data_root: Path | None, space: AnySpace) -> Truth:
    """Published accuracies of the archs of a space, from a file below data_root.

    macro: NAS-Bench-Macro (Su et al. 2021), CIFAR-10, mean of three trainings of 50 epochs.
    nb101: the cells of NAS-Bench-101 (Ying et al. 2019) that MixPath's supernet holds, CIFAR-10,
    mean of three trainings of 108 epochs; those with at most as many nodes as the space has.

    Raises BadInput for an unknown name, a space with other blocks than the benchmark's, and a file
    that is missing, damaged, or has params or FLOPs that are not those of its networks.
    """
    if name not in _FILES:
        raise BadInput(f"no benchmark {name!r}; known are {', '.join(_FILES)}")
    file, origin = _FILES[name]
    path = Path(file) if data_root is None else data_root / file
    if data_root is None or not path.is_file():
        raise BadInput(
            f"benchmark {name}: no such file: {path}; --data-root DIR or MOBILENAS_DATA names the "
            f"folder that holds {file}, which is {origin}"
        )
    return _macro(path, space) if name == "macro" else _nb101(path, space)


class _Published(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _MacroNetwork(_Published):
    """test_acc: of the three trainings, in percent; mean_acc: their mean."""

    test_acc: tuple[_Percent, _Percent, _Percent]
    mean_acc: _Percent
    params: int
    flops: int


def _macro(path: Path, space: AnySpace) -> Truth:
    benchmark = load_space("macro")
    if not isinstance(space, Space) or _plan(space) != _plan(benchmark):
        raise BadInput(
            f"benchmark macro: the supernet is of space {space.name}, whose blocks are not those "
            "of macro; train one with --space macro (another width or resolution will do)"
        )
    networks = validated(dict[_MacroCode, _MacroNetwork], read_json(path), path)
    # A code has one digit a block: 0 identity, 1 e3k3, 2 e6k5, the order of the candidates.
    archs = [benchmark.decode(np.array([int(digit) for digit in code])) for code in networks]
    names = [benchmark.canonical(arch) for arch in archs]
    table = np.array([(n.mean_acc, *n.test_acc) for n in networks.values()]) / 100
    distinct, means = _distinct(path, names, table)
    for cost, values in flops_and_params(benchmark, archs).items():
        for (code, network), value in zip(networks.items(), values, strict=True):
            _check(path, code, cost, getattr(network, cost), value)
    pairs = combinations(means[:, 1:].T, 2)
    ceiling = float(np.mean([kendalltau(one, other).statistic for one, other in pairs]))
    source = f"{path.name} (NAS-Bench-Macro)"
    return Truth(source, distinct, means[:, 0], flops_and_params(benchmark, distinct), ceiling)


def _plan(space: Space) -> list[tuple[Any, ...]]:
    """All that spaces share whose archs are the same but for the width and the resolution."""
    return [
        (
            *(b.candidates, b.searchable, b.stride, b.keeps_shape),
            *(b.adds_input, b.activation, b.squeeze_excite),
        )
        for b in space.layers
    ]


class _NB101Cell(_Published):
    """ops: of the nodes between the input and the last node."""

    ops: tuple[Literal["conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"], ...]
    params: int
    test_acc_mean: Annotated[float, Field(ge=0, le=1)]


class _NB101(_Published):
    cells: tuple[_NB101Cell, ...]


_NB101_OPS = {"conv1x1-bn-relu": "c1", "conv3x3-bn-relu": "c3", "maxpool3x3": "mp"}


def _nb101(path: Path, space: AnySpace) -> Truth:
    if not isinstance(space, CellSpace):
        raise BadInput(
            f"benchmark nb101: the supernet is of space {space.name}, whose archs are no cells of "
            "NAS-Bench-101; train one with --space nb101"
        )
    # The benchmark's networks have 128 channels, those of the space may have fewer.
    benchmark = load_any_space("nb101")
    published = validated(_NB101, read_json(path), path).cells
    cells = [cell for cell in published if len(cell.ops) <= space.max_paths]
    archs = [Cell(tuple(_NB101_OPS[op] for op in cell.ops)) for cell in cells]
    accuracy = np.array([cell.test_acc_mean for cell in cells])
    names = [space.canonical(arch) for arch in archs]
    distinct, means = _distinct(path, names, accuracy[:, None])
    for cell, arch, params in zip(
        cells, archs, flops_and_params(benchmark, archs)["params"], strict=True
    ):
        _check(path, str(arch), "params", cell.params, params)
    source = f"{path.name} (NAS-Bench-101, MixPath's subset)"
    return Truth(source, distinct, means[:, 0], flops_and_params(benchmark, distinct))


def _check(path: Path, arch: str, cost: str, published: int, counted: int) -> None:
    if published != counted:
        raise BadInput(f"{path}: {arch} has {counted} {cost}, not {published}")


# --- of both ------------------------------------------------------------------------------------


def _distinct(
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
