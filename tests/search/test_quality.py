import itertools

import numpy as np
from additive import additive

from mobilenas.cost import CostModel
from mobilenas.search import Measured, NSGA2Search, Problem, hypervolume, non_dominated
from mobilenas.space import load_space

SPACE = load_space("macro")
COSTS = CostModel(SPACE)


def searched(costs, evaluate, **settings):
    """The evaluations of a whole search by accuracy and FLOPs."""
    search = NSGA2Search(Problem(costs), **settings)
    while (archs := search.ask()) is not None:
        search.tell(dict(zip(archs, map(Measured, evaluate(archs)), strict=True)))
    return search.evaluations


def test_search_comes_close_to_the_exhaustive_front():
    every = np.array(list(itertools.product(range(3), repeat=8)))
    evaluate = additive(SPACE)
    accuracy = np.array(evaluate([SPACE.decode(g) for g in every]))
    points = np.column_stack([-accuracy, COSTS.flops_batch(every) / 1e6])
    reference = points.max(axis=0)

    shares = {"evolve": [], "random": []}
    for seed in range(3):
        evaluations = searched(COSTS, evaluate, population=20, generations=15, seed=seed)
        found = [[-e.accuracy, e.costs["flops"] / 1e6] for e in evaluations]
        shares["evolve"].append(hypervolume(np.array(found), reference))
        drawn = np.random.default_rng(seed).choice(points, len(found), replace=False)
        shares["random"].append(hypervolume(drawn, reference))
    whole = hypervolume(points, reference)
    evolved, drawn = (np.mean(shares[name]) / whole for name in ("evolve", "random"))
    assert evolved > 0.985
    assert evolved > drawn + 0.02


def test_search_comes_close_to_the_optimum_of_a_large_space():
    space = load_space("s1")  # 5e17 archs; the best one has accuracy 1
    evaluate = additive(space)
    evaluations = searched(CostModel(space), evaluate, population=20, generations=40)
    rng = np.random.default_rng(0)
    drawn = evaluate([space.decode(g) for g in space.sample_genes(800, rng)])
    best = max(e.accuracy for e in evaluations)
    assert best > 0.86 > max(drawn)


def test_search_reaches_both_ends_of_the_front_of_a_large_space():
    space = load_space("s1")
    costs = CostModel(space)
    evaluations = searched(costs, additive(space), population=20, generations=10)
    points = np.array([[-e.accuracy, e.costs["flops"]] for e in evaluations])
    front = points[non_dominated(points)][:, 1]
    assert front.min() == costs.range().minimum
    drawn = costs.flops_batch(space.sample_genes(10_000, np.random.default_rng(0)))
    assert (front < drawn.min()).sum() >= 5
    assert (front > drawn.max()).sum() >= 5
