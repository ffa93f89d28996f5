"""A stand-in for a supernet: accuracies that add up over blocks, so the best arch is known."""

import numpy as np

from mobilenas.search import Measured, Problem
from mobilenas.stages.evolve import search_archs


def weights(space, seed=0):
    """Accuracies that add up over blocks; more FLOPs in a block help on average."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.random(len(b.candidates))) + 0.3 * rng.random() for b in space.blocks]


def additive(space, seed=0):
    table = weights(space, seed)
    top = sum(w.max() for w in table)

    def accuracy(arch):
        genes = space.encode(arch)
        return float(sum(w[g] for w, g in zip(table, genes, strict=True)) / top)

    return lambda archs: [accuracy(arch) for arch in archs]


def evolve(space, evaluate, cost_model, *, run, naswot=None, objectives=None, limits=None, **how):
    """A search in a run folder with functions that say the accuracy and NASWOT of archs."""

    def measure(archs):
        naswots = naswot(archs) if naswot else [None] * len(archs)
        return [Measured(*pair) for pair in zip(evaluate(archs), naswots, strict=True)]

    problem = Problem(cost_model, objectives or ("accuracy", "flops"), limits or {})
    return search_archs(problem, measure, run, **how)
