"""The search by ask and tell, with nothing on disk."""

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from additive import Counting, naswot
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.search import Evaluation, Measured, NSGA2Search, Problem
from mobilenas.space import Space, load_space, space_from_dict

SPACE = load_space("macro")
COSTS = CostModel(SPACE)
LIMITS = {"flops": 60_000_000}
ACCURACY, SCORE = ("accuracy", "flops"), ("score", "flops")


def start(
    objectives: tuple[str, ...] = ACCURACY, limits: dict[str, float] | None = None, **settings: Any
) -> NSGA2Search:
    problem = Problem(COSTS, objectives, LIMITS if limits is None else limits)
    return NSGA2Search(problem, **{"population": 10, "generations": 8, "seed": 3} | settings)


def run(search: NSGA2Search, space: Space = SPACE) -> NSGA2Search:
    measure = Counting(space, by_score=search.problem.quality == "score")
    while (archs := search.ask()) is not None:
        search.tell(dict(zip(archs, measure(archs), strict=True)))
    return search


def test_every_arch_is_asked_for_once_and_only_within_the_limits() -> None:
    search = run(start(limits={"flops": 30_000_000, "params": 1_000_000}))
    archs = [e.arch for e in search.evaluations]
    assert len(set(archs)) == len(archs) > 30
    assert len(search.proposed) > len(archs)
    assert all(COSTS.flops(a) <= 30e6 and COSTS.params(a) <= 1e6 for a in archs)
    assert all(e.costs == COSTS.of(e.arch) for e in search.evaluations)
    generations = [e.generation for e in search.evaluations]
    assert generations == sorted(generations) and set(generations) == set(range(1, 9))


# What this search has found since its operators were last changed.
FRONTS = {
    ACCURACY: [
        "id_id_id_id_id_id_id_id",
        "id_id_e3k3_id_id_id_id_id",
        "id_id_e3k3_e3k3_id_id_id_id",
        "id_id_id_e3k3_id_e6k5_id_id",
        "e6k5_id_id_e3k3_id_id_e3k3_id",
        "e6k5_id_id_e3k3_id_e6k5_id_id",
        "id_id_id_e3k3_id_e6k5_e6k5_id",
        "e6k5_id_e3k3_e3k3_id_e6k5_id_id",
        "e6k5_id_e3k3_e3k3_e3k3_e6k5_id_id",
        "e6k5_id_id_e3k3_id_e6k5_e6k5_id",
        "e6k5_id_e3k3_e3k3_id_e6k5_e6k5_id",
        "e6k5_id_e3k3_e3k3_e3k3_e6k5_e6k5_id",
    ],
    SCORE: [
        "id_id_id_id_id_id_id_id",
        "id_id_id_id_id_e6k5_id_id",
        "id_id_id_e3k3_id_e6k5_id_id",
        "id_id_e6k5_id_id_e6k5_id_id",
        "e6k5_id_id_e3k3_id_e6k5_id_id",
        "e6k5_id_e6k5_id_id_e6k5_id_id",
        "e6k5_id_id_id_e6k5_e6k5_id_id",
        "e6k5_id_e3k3_e6k5_id_e6k5_id_id",
        "e6k5_id_id_e3k3_id_e6k5_e6k5_id",
        "e6k5_id_e6k5_id_id_e6k5_e6k5_id",
        "e6k5_id_e6k5_e6k5_id_e6k5_id_id",
        "e6k5_id_id_e6k5_id_e6k5_e6k5_id",
    ],
}


@pytest.mark.parametrize("objectives", FRONTS)
def test_the_front_is_the_one_that_was_found_before(objectives: tuple[str, ...]) -> None:
    result = run(start(objectives, generations=4)).result()
    assert [str(e.arch) for e in result.front] == FRONTS[objectives]


@pytest.mark.parametrize("objectives", [ACCURACY, ("accuracy", "params", "memory"), SCORE])
@pytest.mark.parametrize("population", [2, 3, 10])
def test_the_second_generation_begins_with_the_archs_of_extreme_cost(
    objectives: tuple[str, ...], population: int
) -> None:
    search = run(start(objectives, {}, population=population, generations=2))
    first, second = (
        [e.arch for e in search.evaluations if e.generation == number] for number in (1, 2)
    )
    assert len(first) == len(second) == population  # the first is drawn as ever
    extremes = [f(cost) for f in (COSTS.smallest, COSTS.largest) for cost in objectives[1:]]
    distinct = [arch for arch in dict.fromkeys(extremes) if arch not in first]
    assert second[: len(distinct)] == distinct[:population]


def test_the_largest_within_a_limit_stands_for_the_largest() -> None:
    search = run(start(generations=2))
    costs = [e.costs["flops"] for e in search.evaluations if e.generation == 2]
    assert costs[0] == COSTS.range("flops").minimum
    assert max(e.costs["flops"] for e in search.evaluations) <= LIMITS["flops"]
    assert costs[1] > 0.8 * LIMITS["flops"]


@pytest.mark.parametrize("objectives", [ACCURACY, ("accuracy", "params", "flops")])
def test_the_front_is_that_of_brute_force(objectives: tuple[str, ...]) -> None:
    result = run(start(objectives)).result()

    def beats(a: Evaluation, b: Evaluation) -> bool:
        pairs = [(-a.accuracy, -b.accuracy)]
        pairs += [(a.costs[o], b.costs[o]) for o in objectives[1:]]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    expected = {
        e.arch for e in result.evaluations if not any(beats(o, e) for o in result.evaluations)
    }
    assert {e.arch for e in result.front} == expected
    costs = [e.costs[objectives[1]] for e in result.front]
    assert costs == sorted(costs)


def test_a_score_is_in_units_of_the_first_population() -> None:
    result = run(start(SCORE)).result()
    measured = np.array([(e.accuracy, e.naswot) for e in result.evaluations])
    assert measured[:, 1].tolist() == naswot(SPACE)([e.arch for e in result.evaluations])
    first = measured[[e.generation == 1 for e in result.evaluations]]

    def score(measured: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((measured - first.mean(axis=0)) / first.std(axis=0)).sum(axis=1))

    scores = score(measured)
    np.testing.assert_allclose([e.score for e in result.evaluations], scores)
    costs = [e.costs["flops"] for e in result.evaluations]
    points = list(zip(-scores, costs, strict=True))
    expected = {
        e.arch
        for e, p in zip(result.evaluations, points, strict=True)
        if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
    }
    assert {e.arch for e in result.front} == expected
    order = [(e.costs["flops"], -(e.score or 0), str(e.arch)) for e in result.front]
    assert order == sorted(order)
    # A search by accuracy, which begins with the same archs, ends with lower scores.
    other = run(start()).evaluations
    assert [e.arch for e in other[:10]] == [e.arch for e in result.evaluations[:10]]
    naswots = naswot(SPACE)([e.arch for e in other])
    assert max(scores) > max(score(np.column_stack([[e.accuracy for e in other], naswots])))


@pytest.mark.parametrize("objectives", [ACCURACY, SCORE])
def test_the_groups_in_which_it_is_told_do_not_matter(objectives: tuple[str, ...]) -> None:
    whole, search = run(start(objectives)), start(objectives)
    measure = Counting(SPACE, by_score=objectives is SCORE)
    while (archs := search.ask()) is not None:
        for size in (3, 1, len(archs)):
            group, archs = archs[:size], archs[size:]
            told = search.tell(dict(zip(group, measure(group), strict=True)))
            assert [e.arch for e in told] == group
    assert search.result() == whole.result()


def test_random_state_of_the_process_neither_matters_nor_changes() -> None:
    whole = run(start()).evaluations
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    assert run(start()).evaluations == whole
    assert run(start(seed=4)).evaluations != whole
    after = np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    assert after == before


def test_max_evaluations_is_exact() -> None:
    search = run(start(max_evaluations=33))
    assert len(search.evaluations) == 33
    assert search.evaluations == run(start()).evaluations[:33]


def test_what_the_last_evaluations_had_no_room_for_does_not_live_on() -> None:
    accuracy, search = Counting(SPACE).accuracy, start(population=6, max_evaluations=10, seed=1)
    while (archs := search.ask()) is not None:
        if search.generation == 2:  # of six archs four had room, and two of them fail
            assert len(archs) == 4
            for arch in archs[:2]:
                search.leave_out(arch)
            archs = archs[2:]
        search.tell({arch: Measured(x) for arch, x in zip(archs, accuracy(archs), strict=True)})
    assert (search.generation, len(search.evaluations)) == (3, 10)
    evaluated = {tuple(SPACE.encode(e.arch).tolist()) for e in search.evaluations}
    assert {tuple(genes) for genes in search._algorithm.pop.get("X").tolist()} <= evaluated


def test_a_search_ends_when_no_arch_is_left(caplog: pytest.LogCaptureFixture) -> None:
    space = space_from_dict(
        SPACE.to_dict() | {"stages": [{"channels": 16, "blocks": 2, "stride": 2}]}
    )
    caplog.set_level("INFO")
    search = run(NSGA2Search(Problem(CostModel(space)), population=4, generations=50), space)
    assert len(search.evaluations) == 9
    assert "no arch is left to propose" in caplog.text


def test_what_it_is_told_must_be_of_the_archs_that_it_asked_for() -> None:
    search = start()
    archs = search.ask()
    assert archs is not None
    value = Measured(0.5)
    for others in (archs[1:2], archs[1::-1]):
        with pytest.raises(ValueError, match="other archs"):
            search.tell(dict.fromkeys(others, value))
    for accuracy in (float("nan"), 87.5, -0.1):
        with pytest.raises(ValueError, match=r"is .*, not in 0\.\.1"):
            search.tell({archs[0]: Measured(accuracy)})
    search.tell(dict.fromkeys(archs[:4], value))
    with pytest.raises(ValueError, match="nothing was told of 6 archs"):
        search.ask()
    search.tell(dict.fromkeys(archs[4:], value))
    assert search.ask()


@pytest.mark.parametrize(
    ("objectives", "wrong"),
    [
        (SCORE, Measured(0.5)),
        (ACCURACY, Measured(0.5, 700.0)),
        (("prediction", "flops"), Measured(0.5, 700.0)),
        (SCORE, Measured(0.5, 700.0, 0.6, 0.01)),
    ],
)
def test_a_search_is_told_what_its_quality_needs(
    objectives: tuple[str, ...], wrong: Measured
) -> None:
    search = start(objectives)
    with pytest.raises(ValueError, match=f"a search by {objectives[0]} needs"):
        search.tell(dict.fromkeys(search.ask() or [], wrong))


def test_the_front_of_a_search_by_prediction_has_a_network_once() -> None:
    accuracy, search = Counting(SPACE).accuracy, start(("prediction", "flops"), population=20)
    while (archs := search.ask()) is not None:
        values = accuracy([SPACE.canonical(arch) for arch in archs])  # as networks are predicted
        search.tell({a: Measured(x, 700.0, x, 0.01) for a, x in zip(archs, values, strict=True)})
    front, evaluations = (
        [(SPACE.canonical(e.arch), e.prediction) for e in found]
        for found in (search.result().front, search.evaluations)
    )
    assert len(set(front)) == len(front) and max(map(evaluations.count, front)) > 1
    assert max(x for _, x in front) == max(x for _, x in evaluations)


@pytest.mark.parametrize("bad", [{"population": 1}, {"generations": 0}, {"max_evaluations": 0}])
def test_settings_without_sense_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="population >= 2"):
        start(**bad)


def test_a_search_is_imported_without_torch_and_matplotlib() -> None:
    program = (
        "import sys, mobilenas.search, mobilenas.search.front\n"
        "heavy = {'torch', 'matplotlib', 'timm', 'mobilenas.report', 'mobilenas.runs'}\n"
        "print(*(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
