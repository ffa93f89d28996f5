"""Sampling, crossover, mutation and duplicate elimination on genes.

A gene is the index of a block's candidate, so a block is never torn apart: crossover exchanges
whole blocks, and mutation moves a block to another of its candidates. The functions work on plain
arrays; the classes at the end fit them to pymoo, which hands its own generator to each.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.sampling import Sampling

from mobilenas.search.problem import Problem
from mobilenas.space import Arch, Candidate, Genes, Space

# Archs drawn for each one that the initial population needs, before infeasible ones are repaired.
DRAWS_PER_ARCH = 100


def are_neighbours(a: Candidate, b: Candidate) -> bool:
    """Whether they differ in one thing: the expansion, or one path added, removed or swapped."""
    if a.is_identity or b.is_identity:
        return False
    if a.expansion != b.expansion:
        return a.kernels == b.kernels
    if len(a.kernels) != len(b.kernels):
        return False
    changed = [
        (set(x) - set(y), set(y) - set(x))
        for x, y in zip(a.kernels, b.kernels, strict=True)
        if x != y
    ]
    return len(changed) == 1 and max(map(len, changed[0])) == 1


def neighbour_table(candidates: tuple[Candidate, ...]) -> tuple[tuple[int, ...], ...]:
    """For each candidate the indices of its neighbours, ascending; none for the identity."""
    return tuple(
        tuple(j for j, b in enumerate(candidates) if are_neighbours(a, b)) for a in candidates
    )


@cache
def neighbour_tables(space: Space) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The `neighbour_table` of each block; blocks mostly share their candidates."""
    tables = {block.candidates: neighbour_table(block.candidates) for block in space.blocks}
    return tuple(tables[block.candidates] for block in space.blocks)


def crossover(first: Genes, second: Genes, rng: np.random.Generator) -> tuple[Genes, Genes]:
    """Two children of two parents (blocks,): the blocks between two random cuts are exchanged.

    Uniform crossover is no better and no worse: docs/search.md.
    """
    start, stop = sorted(rng.choice(len(first) + 1, size=2, replace=False).tolist())
    children = first.copy(), second.copy()
    children[0][start:stop], children[1][start:stop] = second[start:stop], first[start:stop]
    return children


def mutate(space: Space, genes: Genes, rng: np.random.Generator) -> Genes:
    """A copy of genes (blocks,) in which each block changes with probability 1/blocks.

    A changed block takes, half of the time, a structural neighbour of its candidate and else any
    other candidate; where there is no neighbour always the latter.
    """
    child, tables = genes.copy(), neighbour_tables(space)
    for i in np.flatnonzero(rng.random(len(genes)) < 1 / len(genes)).tolist():
        gene, table = genes[i].item(), tables[i]
        options = table[gene]
        if options and rng.random() >= 0.5:
            child[i] = options[rng.integers(len(options))]
        elif len(table) > 1:
            other = rng.integers(len(table) - 1).item()
            child[i] = other + (other >= gene)
    return child


def sample_feasible(
    problem: Problem, n: int, rng: np.random.Generator, first: Sequence[Arch] = ()
) -> Genes:
    """The archs of `first` that are feasible, and up to n others: distinct, (m, blocks), feasible
    where possible.

    The others are uniform among the feasible ones, by rejection; those still missing after
    DRAWS_PER_ARCH * n draws are drawn archs repaired, as long as one of the last DRAWS_PER_ARCH was
    new. Fewer than n where hardly any arch is feasible.
    """
    space = problem.cost_model.space
    found: dict[tuple[int, ...], None] = {}

    def add_feasible(drawn: Genes) -> None:
        feasible = (problem.violations(drawn) <= 0).all(axis=1)
        found.update(dict.fromkeys(map(tuple, drawn[feasible].tolist())))

    if first:
        add_feasible(np.stack([space.encode(arch) for arch in first]))
    n += len(found)
    for _ in range(DRAWS_PER_ARCH):
        add_feasible(space.sample_genes(n, rng))
        if len(found) >= n:
            return np.array(list(found)[:n])
    known = 0  # repaired archs in a row that were there already
    for genes in space.sample_genes(DRAWS_PER_ARCH * n, rng):
        if len(found) >= n or known == DRAWS_PER_ARCH:
            break
        repaired = tuple(repair(problem, genes, rng).tolist())
        known = known + 1 if repaired in found else 0
        found[repaired] = None
    return np.array(list(found))


def repair(problem: Problem, genes: Genes, rng: np.random.Generator) -> Genes:
    """Walk from genes (blocks,) to a feasible arch: each step moves one block, picked at random,
    to a candidate, picked at random, that lowers the excess.

    Under one limit the walk arrives if any arch is feasible. Under several it may end at an arch
    that no single step improves; that one is returned.
    """
    num_candidates = problem.cost_model.space.num_candidates
    for _ in range(int(num_candidates.sum())):
        if problem.excess(genes[None])[0] == 0:
            break
        for i in rng.permutation(len(genes)):
            options = np.tile(genes, (num_candidates[i], 1))
            options[:, i] = np.arange(len(options))
            excess = problem.excess(options)  # of genes too: sums in one order are equal to the bit
            better = options[excess < excess[genes[i]]]
            if len(better):
                genes = better[rng.integers(len(better))]
                break
        else:
            break
    return genes


def cost_extremes(problem: Problem, rng: np.random.Generator) -> Genes:
    """The cheapest archs (n, blocks) by each cost among the objectives, then the largest, brought
    within the limits by `repair`.

    Where blocks are many, drawn archs all cost about the same, and the ends of the front are far.
    """
    model = problem.cost_model
    extremes = [
        f(cost) for f in (model.smallest, model.largest) for cost in problem.cost_objectives
    ]
    return np.array([repair(problem, model.space.encode(arch), rng) for arch in extremes])


class FeasibleSampling(Sampling):
    """`sample_feasible` for pymoo."""

    def __init__(self, problem: Problem, first: Sequence[Arch]) -> None:
        super().__init__()
        self.problem, self.first = problem, first

    def _do(self, _: Any, n_samples: int, *, random_state: np.random.Generator, **__: Any) -> Genes:
        return sample_feasible(self.problem, n_samples, random_state, self.first)


class BlockCrossover(Crossover):
    """`crossover` for pymoo: parents (2, matings, blocks) -> children of the same shape."""

    def __init__(self) -> None:
        super().__init__(n_parents=2, n_offsprings=2)

    def _do(self, _: Any, x: Genes, *, random_state: np.random.Generator, **__: Any) -> Genes:
        pairs = [crossover(a, b, random_state) for a, b in zip(*x, strict=True)]
        return np.array(pairs).swapaxes(0, 1)


class BlockMutation(Mutation):
    """`mutate` for pymoo: genes (n, blocks) -> genes (n, blocks)."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def _do(self, _: Any, x: Genes, *, random_state: np.random.Generator, **__: Any) -> Genes:
        return np.array([mutate(self.space, genes, random_state) for genes in x])


class Unseen(DuplicateElimination):
    """Drops archs that the search has proposed before, dead ones included, and repeats in a batch.

    NSGA-II compares with the living population only; here an arch that died would cost a place in
    the generation and teach nothing. `seen` is shared with the search, which adds to it.
    """

    def __init__(self, seen: set[tuple[int, ...]]) -> None:
        super().__init__()
        self.seen = seen

    def do(self, pop: Any, *others: Any, **_: Any) -> Any:
        # pymoo compares with the living, which have been proposed, and last with the batch so far.
        taken = {tuple(x.X.tolist()) for other in others[-1:] for x in other}
        fresh = []
        for i, genes in enumerate(tuple(x.X.tolist()) for x in pop):
            if genes not in self.seen and genes not in taken:
                taken.add(genes)
                fresh.append(i)
        return pop[fresh]
