"""Budgets in milliseconds of cells, whose latencies a benchmark lists."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Call, check_refused, contents
from listed import GENES, HAS_PATH, listed_columns, write_listed

from mobilenas.cost.derive import most_probable
from mobilenas.cost.edge_cells import edge_cell_costs
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.cost.titles import format_cost
from mobilenas.evaluate.nb201 import read_nb201
from mobilenas.space import EdgeCellSpace, load_listed_space
from mobilenas.stages.benchmark import standing_of
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.searchable import Searchable

BOARD = "latency_ms@board"
CELLS = "nb201:channels=4,cells=1,resolution=8"
SEARCH = ["search", f"--space={CELLS}", "--preset=cpu", "--set=epochs=0.05", "--set=batch_size=16"]
LISTED_MS = listed_columns()["lat_board_ms"]
LISTED = dict(zip(listed_columns()["arch_str"], LISTED_MS, strict=True))
OPS = ["avg_pool_3x3", "nor_conv_3x3", "none"]  # some, in another order


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_listed(tmp_path_factory.mktemp("root"), listed_columns())


def costs_of_board(root: Path, ops: list[str]) -> EdgeCellCosts:
    space = load_listed_space(f"{CELLS},ops=[{','.join(ops)}]")
    assert isinstance(space, EdgeCellSpace)
    return EdgeCellCosts(space, [read_nb201(root, space).latency("board")])


def test_latencies_are_those_that_are_listed(root: Path) -> None:
    costs = costs_of_board(root, OPS)
    genes = costs.all_genes()
    assert len({*map(tuple, genes)}) == 3**6
    archs = [costs.space.decode(each) for each in genes]
    expected = np.array([LISTED[str(arch)] for arch in archs])
    assert [costs.of(arch)[BOARD] for arch in archs[::25]] == expected[::25].tolist()
    assert costs.batch(BOARD, genes).tolist() == np.where(expected, expected, np.inf).tolist()
    extent, connected = costs.range(BOARD), expected[expected > 0]
    assert (extent.minimum, extent.maximum) == (connected.min(), connected.max())
    assert extent.median == np.median(connected)
    below = costs.feasible_share({BOARD: float(extent.minimum) - 1e-6})
    assert below == 0 < costs.feasible_share({BOARD: float(extent.median)}) < 0.6
    one_hot = [np.eye(3)[gene] for gene in genes[7]]
    fixed, rows, is_peak = costs.parts(BOARD)
    fit = costs.tables[0].fit
    assert 0.5 < fit.r2 < 0.95 and not is_peak
    assert rows[2].tolist() == fit.ops[2][[4, 3, 0]].tolist()
    near = fixed + sum(float(p @ row) for p, row in zip(one_hot, rows, strict=True))
    assert near == pytest.approx(expected[7], rel=0.25)


def test_the_expected_latency_is_that_of_the_fit(root: Path) -> None:
    """Over all cells that have a path, the sums are right on average (least squares)."""
    import torch

    costs = costs_of_board(root, load_listed_space("nb201").spec.ops)  # type: ignore[arg-type]
    table, expected = costs.tables[0], ExpectedCost(costs, {BOARD: 9.0})
    rows = GENES[table.connected()]
    means = [
        expected.of(BOARD, [torch.eye(5)[gene] for gene in genes]).item() for genes in rows[::25]
    ]
    listed = table.of(table.space, rows[::25])
    assert np.mean(means) == pytest.approx(listed.mean(), rel=0.01)


@pytest.mark.parametrize("params", [None, 3000])
def test_the_arch_is_the_most_probable_one_within_what_is_listed(
    params: int | None, root: Path
) -> None:
    costs, rng = costs_of_board(root, OPS), np.random.default_rng(1)
    genes = costs.all_genes()
    listed = np.array([LISTED[str(costs.space.decode(each))] for each in genes])
    ms = np.where(listed, listed, np.inf)  # what is cut off is no answer to a limit
    counted = edge_cell_costs(costs.space, genes)["params"]
    for limit in [1.0, *np.quantile(listed[listed > 0], [0, 0.001, 0.01, 0.1, 0.5, 1])]:
        p = rng.dirichlet(np.ones(3), 6)
        limits: dict[str, Any] = {BOARD: limit} | ({"params": params} if params else {})
        within = (ms <= limit) & (counted <= (params or np.inf))
        found = most_probable(costs, list(p), limits)
        if not within.any():
            assert found is None
            continue
        score = np.where(within, p[np.arange(6), genes].prod(axis=1), -1)
        assert found == costs.space.decode(genes[score.argmax()])


def test_no_cell_without_a_path_is_the_cheapest(root: Path) -> None:
    space = load_listed_space(CELLS)
    assert isinstance(space, EdgeCellSpace)
    listed = read_nb201(root, space)
    searchable, truth = Searchable(EdgeCellCosts(space, [listed.latency("board")])), listed.truths
    accuracy = truth["cifar10"].accuracy
    cut_off, connected = (int(np.flatnonzero(rows)[100]) for rows in (~HAS_PATH, HAS_PATH))
    limit = float(LISTED_MS[connected])
    cheaper = HAS_PATH & (limit >= LISTED_MS)
    for row, within in ((cut_off, np.ones(len(GENES), bool)), (connected, cheaper)):
        found = standing_of(space.decode(GENES[row]), truth["cifar10"], searchable)
        assert found.regret[BOARD] == pytest.approx(accuracy[within].max() - accuracy[row])


def test_a_search_keeps_its_milliseconds(
    root: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOBILENAS_DATA", raising=False)
    out = tmp_path / "search"
    low, middle = np.quantile(costs_of_board(root, OPS).tables[0].ms[HAS_PATH], [0.05, 0.5])
    asked = [f"--latency={low:.3f}ms@board", f"--latency={middle:.3f}ms@phone"]
    files = ["--benchmark=nb201", f"--data-root={root}"]
    done = call(*SEARCH, *asked, *files, f"--out={out}", "--json")
    assert done.code == 0, done.err
    assert "latency@board: a sum over the edges explains" in done.err
    printed = json.loads(done.out)
    (row,) = printed["front"]
    assert 0 < row[BOARD] == LISTED[row["arch"]] <= round(low, 3)
    assert row["latency_ms@phone"] <= round(middle, 3)
    assert BOARD in printed["standing"]["cifar10"]["regret"]
    logged = [json.loads(line) for line in (out / "log.jsonl").open()]
    assert logged[-1][f"expected_{BOARD}"] > 0
    before = contents(out)
    assert call("search", "--resume", *asked, *files, f"--out={out}").code == 0
    assert contents(out) == before
    alone = call("search", "--resume", *asked, f"--out={out}")  # the run knows where its table is
    assert alone.code == 0, alone.err
    assert contents(out) == before
    other = call("search", "--resume", "--latency=12ms@board", asked[1], f"--out={out}")
    check_refused(other, "limits", BOARD)
    again = call("search", "--resume", "--latency=12ms@board", *files, f"--out={out}")
    check_refused(again, "limits", BOARD)


def test_what_is_refused(
    root: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOBILENAS_DATA", raising=False)
    out = tmp_path / "search"
    low = format_cost(BOARD, min(ms for ms in LISTED.values() if ms))
    for options, code, words in (
        (["--latency=5ms@tablet", f"--data-root={root}"], 2, ["'tablet'", "phone, board"]),
        (["--latency=5ms@board"], 2, ["nasbench201.parquet", "--data-root"]),
        (["--latency=5ms@board", "--latency=6ms@board", f"--data-root={root}"], 2, ["once"]),
        (["--latency=0.1ms@board", f"--data-root={root}"], 3, ["0.1 ms", f"ranges from {low}"]),
        (
            ["--latency=5ms@board", f"--data-root={root}", "--space=darts:channels=4,cells=3"],
            2,
            ["nb201"],
        ),
    ):
        done = call(*SEARCH, *options, f"--out={out}")
        check_refused(done, *words, code=code)
        assert not out.exists()
    assert call(*SEARCH, "--latency=12ms@board", f"--data-root={root}", f"--out={out}").code == 0
    settings = json.loads((out / "run.json").read_text())
    there = settings["parents"] | {"latency table board": str(tmp_path)}
    moved = settings | {"parents": there, "relative": {}}
    (out / "run.json").write_text(json.dumps(moved))
    check_refused(call("search", "--resume", f"--out={out}"), "nasbench201.parquet")
