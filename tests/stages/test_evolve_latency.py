"""Searches over latency and memory: objectives, limits, and what a resume compares."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from additive import Counting
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables import made_up_table

from mobilenas.base.errors import BadInput, InfeasibleBudget
from mobilenas.cost import CostModel
from mobilenas.cost.budget import LatencyLimit
from mobilenas.search import NSGA2Search, Problem, Result, check_feasible
from mobilenas.search.operators import sample_feasible
from mobilenas.search.problem import default_objectives, parse_objectives
from mobilenas.space import load_space
from mobilenas.stages.search_run import SearchRun

SPACE = load_space("macro")
A, B = (made_up_table(SPACE, name, wobble=2) for name in "ab")
OBJECTIVES = ("accuracy", "latency_ms@a", "latency_ms@b")


def search(
    run: Path,
    *,
    tables: tuple[Any, ...] = (A, B),
    objectives: tuple[str, ...] = OBJECTIVES,
    limits: dict[str, float] | None = None,
    generations: int = 6,
    resume: bool = False,
) -> Result:
    problem = Problem(CostModel(SPACE, tables), objectives, limits or {})
    found = NSGA2Search(problem, population=10, generations=generations, seed=3)
    return SearchRun.start(found, run, resume=resume).explore(Counting(SPACE))


def test_the_front_is_that_of_the_latencies_within_all_limits(tmp_path: Path) -> None:
    limits = {"latency_ms@a": 110.0, "latency_ms@b": 120.5, "memory": 900_000}
    result = search(tmp_path, limits=limits)
    cost_model = CostModel(SPACE, [A, B])
    assert len(result.evaluations) > 20
    for e in result.evaluations:
        assert e.costs == cost_model.of(e.arch)
        assert all(e.costs[name] <= limit for name, limit in limits.items())
    points = [
        (-e.accuracy, *(e.costs[name] for name in OBJECTIVES[1:])) for e in result.evaluations
    ]
    expected = {
        e.arch
        for e, p in zip(result.evaluations, points, strict=True)
        if not any(q != p and all(x <= y for x, y in zip(q, p, strict=True)) for q in points)
    }
    assert {e.arch for e in result.front} == expected
    latencies = [e.costs["latency_ms@a"] for e in result.front]
    assert latencies == sorted(latencies)
    rows = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").open()]
    assert rows == [e.row() for e in result.evaluations]
    assert set(cost_model.costs) < set(rows[0])


def test_a_resume_reads_all_costs_back(tmp_path: Path) -> None:
    first = search(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert search(tmp_path, resume=True) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def changed_row() -> Any:
    key = next(iter(A.rows))
    row = A.rows[key].model_copy(update={"ms": A.rows[key].ms + 1e-9})
    return A.model_copy(update={"rows": A.rows | {key: row}})


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ((changed_row(), B), "latency_tables.a: "),
        ((A, B, made_up_table(SPACE, "c")), "latency_tables.c: "),
    ],
)
def test_a_resume_with_other_tables_is_refused(
    tables: tuple[Any, ...], told: str, tmp_path: Path
) -> None:
    search(tmp_path, generations=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BadInput, match=f"another {told}"):
        search(tmp_path, generations=1, tables=tables, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_resume_without_the_tables_is_refused(tmp_path: Path) -> None:
    search(tmp_path, generations=1, objectives=("accuracy", "flops"))
    with pytest.raises(BadInput, match=r"another latency_tables\.a: "):
        search(tmp_path, generations=1, objectives=("accuracy", "flops"), tables=(), resume=True)


def test_an_infeasible_latency_is_told_in_ms() -> None:
    cost_model = CostModel(SPACE, [made_up_table(SPACE, "phone", overhead_ms=2.0)])
    with pytest.raises(InfeasibleBudget) as raised:
        check_feasible(cost_model, {"latency_ms@phone": 5.0})
    assert str(raised.value) == (
        "no arch of macro has at most 5 ms latency@phone:"
        " the space ranges from 9.713 ms to 107.7 ms"
    )
    with pytest.raises(InfeasibleBudget, match=r"at most 10kB memory: the space ranges from .*kB"):
        check_feasible(cost_model, {"memory": 10_000})


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["memory", "latency_ms@t"]),
    st.sampled_from(["macro", "s1:width=0.25", "digits"]),
    st.floats(0, 0.2),
    st.integers(0, 2**32 - 1),
)
@example("memory", "macro", 2.3e-16, 53548)  # where equal sums differed by rounding
def test_first_archs_meet_tight_limits_on_memory_and_latency(
    cost: str, reference: str, tightness: float, seed: int
) -> None:
    space = load_space(reference)
    cost_model = CostModel(space, [made_up_table(space, "t", wobble=1)])
    extent = cost_model.range(cost)
    limit = extent.minimum + tightness * (extent.maximum - extent.minimum)
    problem = Problem(cost_model, limits={cost: limit})
    genes = sample_feasible(problem, 4, np.random.default_rng(seed))
    assert len(genes)
    assert (cost_model.batch(cost, genes) <= limit).all()
    assert (problem.excess(genes) == 0).all()


def test_default_objectives_are_the_latencies_given() -> None:
    assert default_objectives(CostModel(SPACE), "score") == ("score", "flops")
    assert default_objectives(CostModel(SPACE, [B, A]), "score") == (
        *("score", "latency_ms@b", "latency_ms@a"),
    )


@pytest.mark.parametrize(
    ("text", "devices", "objectives"),
    [
        ("accuracy,flops", (), ("accuracy", "flops")),
        ("accuracy, latency", ("phone",), ("accuracy", "latency_ms@a")),
        ("accuracy,latency@phone,params", ("phone",), ("accuracy", "latency_ms@a", "params")),
        ("latency@b,accuracy,latency@phone", ("phone", "x.json"), None),
        ("accuracy,latency_ms@b", ("phone", "x.json"), ("accuracy", "latency_ms@b")),
    ],
)
def test_objectives_by_word(
    text: str, devices: tuple[str, ...], objectives: tuple[str, ...] | None
) -> None:
    cost_model = CostModel(SPACE, (A, B)[: len(devices)])
    found = parse_objectives(text, cost_model, tuple(map(LatencyLimit, devices)))
    assert found == (objectives or ("latency_ms@b", "accuracy", "latency_ms@a"))


@pytest.mark.parametrize(
    ("text", "devices", "message"),
    [
        ("accuracy,latency", (), r"needs one latency table \(given: none\): --latency @DEVICE"),
        ("accuracy,latency", ("x", "y"), r"\(given: a, b\): .* latency@NAME"),
        (
            "accuracy,latency@z",
            ("x", "y"),
            "objective latency@z: no --latency gives z; given: a, b",
        ),
        ("accuracy,latency@", ("x",), "no --latency gives ; given: a"),
    ],
)
def test_objectives_without_a_clear_table_are_refused(
    text: str, devices: tuple[str, ...], message: str
) -> None:
    cost_model = CostModel(SPACE, (A, B)[: len(devices)])
    with pytest.raises(BadInput, match=message):
        parse_objectives(text, cost_model, tuple(map(LatencyLimit, devices)))
