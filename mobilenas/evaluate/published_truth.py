"""Published accuracies as a ground truth: NAS-Bench-Macro, and MixPath's part of NAS-Bench-101."""

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import kendalltau

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.base.settings import validated
from mobilenas.cost.model import flops_and_params
from mobilenas.evaluate.truth import Truth, distinct_means
from mobilenas.space import AnySpace, Cell, CellSpace, Space, load_any_space, load_space

_Percent = Annotated[float, Field(ge=0, le=100)]
_MacroCode = Annotated[str, Field(pattern=r"^[012]{8}$")]

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
    return _macro(data_root, space) if name == "macro" else _nb101(data_root, space)


def benchmark_file(name: str, data_root: Path | None, file: str, origin: str) -> Path:
    """The file of a benchmark below data_root. Raises BadInput, where it is missing, with where it
    comes from.
    """
    path = Path(file) if data_root is None else data_root / file
    if data_root is None or not path.is_file():
        raise BadInput(
            f"benchmark {name}: no such file: {path}; --data-root DIR or MOBILENAS_DATA names the "
            f"folder that holds {file}, which is {origin}"
        )
    return path


class _Published(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _MacroNetwork(_Published):
    """test_acc: of the three trainings, in percent; mean_acc: their mean."""

    test_acc: tuple[_Percent, _Percent, _Percent]
    mean_acc: _Percent
    params: int
    flops: int


def _macro(data_root: Path | None, space: AnySpace) -> Truth:
    benchmark = load_space("macro")
    if not isinstance(space, Space) or _plan(space) != _plan(benchmark):
        raise BadInput(
            f"benchmark macro: space {space.name} has blocks that are not those of macro; take "
            "--space macro (another width or resolution will do)"
        )
    path = benchmark_file("macro", data_root, *_FILES["macro"])
    networks = validated(dict[_MacroCode, _MacroNetwork], read_json(path), path)
    # A code has one digit a block: 0 identity, 1 e3k3, 2 e6k5, the order of the candidates.
    archs = [benchmark.decode(np.array([int(digit) for digit in code])) for code in networks]
    names = [benchmark.canonical(arch) for arch in archs]
    table = np.array([(n.mean_acc, *n.test_acc) for n in networks.values()]) / 100
    distinct, means = distinct_means(path, names, table)
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


def _nb101(data_root: Path | None, space: AnySpace) -> Truth:
    if not isinstance(space, CellSpace):
        raise BadInput(
            f"benchmark nb101: space {space.name} has archs that are no cells of NAS-Bench-101; "
            "take --space nb101"
        )
    path = benchmark_file("nb101", data_root, *_FILES["nb101"])
    # The benchmark's networks have 128 channels, those of the space may have fewer.
    benchmark = load_any_space("nb101")
    published = validated(_NB101, read_json(path), path).cells
    cells = [cell for cell in published if len(cell.ops) <= space.max_paths]
    archs = [Cell(tuple(_NB101_OPS[op] for op in cell.ops)) for cell in cells]
    accuracy = np.array([cell.test_acc_mean for cell in cells])
    names = [space.canonical(arch) for arch in archs]
    distinct, means = distinct_means(path, names, accuracy[:, None])
    for cell, arch, params in zip(
        cells, archs, flops_and_params(benchmark, archs)["params"], strict=True
    ):
        _check(path, str(arch), "params", cell.params, params)
    source = f"{path.name} (NAS-Bench-101, MixPath's subset)"
    return Truth(source, distinct, means[:, 0], flops_and_params(benchmark, distinct))


def _check(path: Path, arch: str, cost: str, published: int, counted: int) -> None:
    if published != counted:
        raise BadInput(f"{path}: {arch} has {counted} {cost}, not {published}")
