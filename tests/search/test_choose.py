"""Which archs of a search are trained."""

import numpy as np
import pytest

from mobilenas.cost import CostModel
from mobilenas.search import Evaluation, Problem
from mobilenas.search.choose import choose_archs
from mobilenas.space import Arch, load_space

SPACE = load_space("macro")
COSTS = CostModel(SPACE)
FRONT = Problem(COSTS, ("prediction", "flops"))
ONE = Problem(COSTS, ("prediction",), {"flops": 60e6})


def evaluations(n: int = 200, deviation: float = 0.0, generation: int = 2) -> list[Evaluation]:
    """Archs of which the dearer ones are better, by and large."""
    rng = np.random.default_rng(0)
    genes = SPACE.sample_genes(n, rng)
    quality = COSTS.flops_batch(genes) / 2e8 + 0.05 * rng.random(n)
    return [
        Evaluation(
            generation, SPACE.decode(g), 0.5, COSTS.of(SPACE.decode(g)), 1.0, float(q), deviation
        )
        for g, q in zip(genes, quality, strict=True)
    ]


def predicted(found: list[Evaluation]) -> dict[Arch, Evaluation]:
    return {SPACE.canonical(e.arch): e for e in found}


def test_they_are_new_canonical_and_spread_over_the_cost() -> None:
    found = evaluations()
    known = choose_archs(FRONT, found, 5, ())
    chosen = choose_archs(FRONT, found, 8, known)
    assert len(set(chosen)) == 8 and not set(chosen) & set(known)
    assert all(SPACE.canonical(arch) == arch for arch in chosen)
    flops = [predicted(found)[arch].costs["flops"] for arch in chosen]
    every = [e.costs["flops"] for e in found]
    assert min(flops) <= np.quantile(every, 0.2) and max(flops) >= np.quantile(every, 0.9)


def test_for_one_arch_the_best_are_chosen() -> None:
    by_name = predicted(evaluations())
    best = sorted(by_name, key=lambda arch: -(by_name[arch].prediction or 0.0))[:6]
    assert choose_archs(ONE, list(by_name.values()), 6, ()) == best
    assert choose_archs(ONE, list(by_name.values()), 4, best[:2]) == best[2:]


def test_every_second_one_is_what_may_be_the_best() -> None:
    found = evaluations(deviation=0.001)
    unsure = Evaluation(1, SPACE.decode(np.zeros(8, int)), 0.5, found[0].costs, 1.0, 0.3, 0.5)
    chosen = choose_archs(ONE, [*found, unsure], 3, ())
    best = max(found, key=lambda e: e.prediction or 0.0)
    assert chosen[:2] == [SPACE.canonical(best.arch), SPACE.canonical(unsure.arch)]
    assert SPACE.canonical(unsure.arch) not in choose_archs(ONE, [*found, unsure], 1, ())
    # One at a time: whatever was known before shifts the turns.
    known = [SPACE.canonical(best.arch)]
    assert choose_archs(ONE, [*found, unsure], 1, known) == [SPACE.canonical(unsure.arch)]


def test_a_single_arch_of_a_front_is_not_the_cheapest() -> None:
    found = evaluations()
    best = max(found, key=lambda e: e.prediction or 0.0)
    assert choose_archs(FRONT, found, 1, ()) == [SPACE.canonical(best.arch)]


@pytest.mark.parametrize("problem", [FRONT, ONE])
def test_what_is_not_sure_of_anything_tries_the_first_generation(problem: Problem) -> None:
    later = evaluations(60)[20:]
    drawn = {SPACE.canonical(each.arch): each for each in evaluations(20, generation=1)}
    for each in later:
        drawn.pop(SPACE.canonical(each.arch), None)
    assert len(drawn) > 8
    chosen = choose_archs(problem, [*drawn.values(), *later], 8, ())
    assert len(set(chosen)) == 8
    by_quality = sorted(drawn, key=lambda arch: drawn[arch].prediction or 0.0)
    first = [by_quality.index(arch) for arch in chosen[:4]]  # they come first, in this order
    assert first == np.linspace(0, len(drawn) - 1, 4).round().tolist()


@pytest.mark.parametrize("problem", [FRONT, ONE])
def test_there_may_be_fewer(problem: Problem) -> None:
    found = evaluations(20)
    everything = choose_archs(problem, found, 50, ())
    assert set(everything) == set(predicted(found))
    assert choose_archs(problem, found, 3, everything) == []
