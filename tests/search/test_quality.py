import itertools

import numpy as np
from additive import additive, evolve

from mobilenas.cost import CostModel
from mobilenas.search import hypervolume
from mobilenas.space import load_space

SPACE = load_space("macro")
COSTS = CostModel(SPACE)


def test_search_comes_close_to_the_exhaustive_front(tmp_path):
    every = np.array(list(itertools.product(range(3), repeat=8)))
    evaluate = additive(SPACE)
    accuracy = np.array(evaluate([SPACE.decode(g) for g in every]))
    points = np.column_stack([-accuracy, COSTS.flops_batch(every) / 1e6])
    reference = points.max(axis=0)

    shares = {"evolve": [], "random": []}
    for seed in range(3):
        settings = {"population": 20, "generations": 15, "seed": seed}
        result = evolve(SPACE, evaluate, COSTS, run=tmp_path / str(seed), **settings)
        found = [[-e.accuracy, e.costs["flops"] / 1e6] for e in result.evaluations]
        shares["evolve"].append(hypervolume(np.array(found), reference))
        drawn = np.random.default_rng(seed).choice(points, len(found), replace=False)
        shares["random"].append(hypervolume(drawn, reference))
    whole = hypervolume(points, reference)
    evolved, drawn = (np.mean(shares[name]) / whole for name in ("evolve", "random"))
    assert evolved > 0.97
    assert evolved > drawn + 0.02


def test_search_comes_close_to_the_optimum_of_a_large_space(tmp_path):
    space = load_space("s1")  # 5e17 archs; the best one has accuracy 1
    evaluate = additive(space)
    settings = {"population": 20, "generations": 40, "seed": 0}
    result = evolve(space, evaluate, CostModel(space), run=tmp_path, **settings)
    rng = np.random.default_rng(0)
    drawn = evaluate([space.decode(g) for g in space.sample_genes(800, rng)])
    best = max(e.accuracy for e in result.evaluations)
    assert best > 0.86 > max(drawn)
