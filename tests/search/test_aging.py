"""The search for the best arch within a budget."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from additive import additive

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.search import AgingSearch, Measured, NSGA2Search, Problem, Search, explore
from mobilenas.search.additive import AdditiveModel
from mobilenas.space import Arch, load_space

SPACE = load_space("macro")
COSTS = CostModel(SPACE)
LIMITS = {"flops": 60_000_000}
QUALITY = additive(SPACE)


def start(limits: dict[str, float] | None = None, **settings: int) -> AgingSearch:
    problem = Problem(COSTS, ("accuracy",), LIMITS if limits is None else limits)
    return AgingSearch(problem, **{"population": 10, "generations": 12, "seed": 3} | settings)


def run(search: AgingSearch) -> AgingSearch:
    while (archs := search.ask()) is not None:
        search.tell(dict(zip(archs, map(Measured, QUALITY(archs)), strict=True)))
    return search


def test_networks_are_asked_for_once_by_their_names_and_within_the_limits() -> None:
    search = run(start({"flops": 50_000_000, "params": 2_000_000}))
    archs = [e.arch for e in search.evaluations]
    assert len(set(archs)) == len(archs) > 100
    assert all(SPACE.canonical(arch) == arch for arch in archs)
    assert all(COSTS.flops(a) <= 50e6 and COSTS.params(a) <= 2e6 for a in archs)
    generations = [e.generation for e in search.evaluations]
    assert generations == sorted(generations) and set(generations) == set(range(1, 13))


def test_the_result_is_the_best_arch_that_was_found() -> None:
    result = run(start()).result()
    best = max(e.accuracy for e in result.evaluations)
    cheapest = min(e.costs["flops"] for e in result.evaluations if e.accuracy == best)
    assert [(e.accuracy, e.costs["flops"]) for e in result.front] == [(best, cheapest)]


def test_it_finds_the_best_of_all_archs_within_a_budget() -> None:
    every = np.array(list(itertools.product(range(3), repeat=8)))
    every = every[COSTS.flops_batch(every) <= LIMITS["flops"]]
    best = max(QUALITY([SPACE.decode(genes) for genes in every]))
    found = [run(start(seed=seed, generations=25)).result().front[0].accuracy for seed in range(5)]
    assert found.count(best) >= 4


def test_an_arch_dies_of_age_not_of_its_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the first generation, better than all others, is no parent for ever."""
    monkeypatch.setattr(AdditiveModel, "archs", lambda *_: [])  # which never forgets
    search = start(generations=30)
    first: Arch | None = None
    apart = []
    while (archs := search.ask()) is not None:
        first = first or archs[0]
        apart.append(
            np.mean(
                [sum(a != b for a, b in zip(x.blocks, first.blocks, strict=True)) for x in archs]
            )
        )
        told = {arch: Measured(1.0 if arch == first else 0.5) for arch in archs}
        search.tell(told)
    # Its kin are near it as long as it lives; were it to live on, they would stay.
    assert np.mean(apart[3:7]) + 1 < np.mean(apart[-5:])


def test_the_same_seed_gives_the_same_archs_also_after_a_kill(tmp_path: Path) -> None:
    def measure(archs: list[Arch]) -> list[Measured]:
        return [Measured(value) for value in QUALITY(archs)]

    whole = start()
    explore(whole, tmp_path / "whole.jsonl", measure)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (0, 7, 55, len(lines)):
        (tmp_path / "part.jsonl").write_bytes(b"".join(lines[:kept]))
        explore(start(), tmp_path / "part.jsonl", measure)
        assert (tmp_path / "part.jsonl").read_bytes() == b"".join(lines)
    other = run(start(seed=4))
    assert [e.arch for e in other.evaluations] != [e.arch for e in whole.evaluations]


def test_a_space_without_further_networks_ends_the_search() -> None:
    smallest = {"flops": COSTS.range("flops").minimum + 1}
    search = run(start(smallest, generations=50))
    assert 1 <= len(search.evaluations) < 10


def test_a_space_of_one_arch_has_it_for_an_answer() -> None:
    candidates = "expansions=[6],candidates.kernels=[3],candidates.max_paths=1"
    one = CostModel(load_space(f"digits:candidates.{candidates}"))
    for objectives, search in ((("accuracy",), AgingSearch), (("accuracy", "flops"), NSGA2Search)):
        found = search(Problem(one, objectives), population=4, generations=3)
        while (archs := found.ask()) is not None:
            found.tell(dict.fromkeys(archs, Measured(0.5)))
        assert len(found.evaluations) == 1


def test_it_can_go_by_a_score() -> None:
    search = AgingSearch(Problem(COSTS, ("score",), LIMITS), population=8, generations=5)
    while (archs := search.ask()) is not None:
        search.tell(
            {arch: Measured(q, 100 * q) for arch, q in zip(archs, QUALITY(archs), strict=True)}
        )
    scores = [e.score for e in search.result().evaluations]
    assert search.result().front[0].score == max(x for x in scores if x is not None)


def test_each_search_is_refused_what_the_other_is_for() -> None:
    with pytest.raises(BadInput, match="a front needs a cost besides accuracy"):
        NSGA2Search(Problem(COSTS, ("accuracy",)))
    with pytest.raises(BadInput, match="by accuracy alone; costs are limits"):
        AgingSearch(Problem(COSTS, ("accuracy", "flops")))


@pytest.mark.parametrize(
    ("kind", "objectives"), [(AgingSearch, ("accuracy",)), (NSGA2Search, ("accuracy", "flops"))]
)
def test_known_archs_come_besides_those_that_are_drawn(
    kind: type[Search], objectives: tuple[str, ...]
) -> None:
    problem = Problem(COSTS, objectives, LIMITS)
    drawn = kind(problem, population=10, seed=3).ask()
    genes = SPACE.sample_genes(400, np.random.default_rng(9))
    named = dict.fromkeys(SPACE.canonical(SPACE.decode(g)) for g in genes)
    known = [arch for arch in named if COSTS.flops(arch) <= LIMITS["flops"]][:25]
    assert len(known) == 25
    asked = kind(problem, population=10, seed=3, first=known).ask()
    assert asked is not None and drawn is not None
    assert asked[:25] == known
    assert len(asked) == 25 + len(drawn)
