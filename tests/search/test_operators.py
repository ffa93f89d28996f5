import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.core.population import Population

from mobilenas.cost import CostModel
from mobilenas.search import Problem
from mobilenas.search.operators import (
    DRAWS_PER_ARCH,
    Unseen,
    cost_extremes,
    crossover,
    mutate,
    neighbour_table,
    repair,
    sample_feasible,
)
from mobilenas.space import IDENTITY, load_space

SPACES = {name: load_space(name) for name in ("macro", "fairnas", "s1", "s3")}
seeds = st.integers(0, 2**32 - 1)
any_space = st.sampled_from(list(SPACES.values()))


def texts_of_neighbours(space, text):
    candidates = space.blocks[0].candidates
    index = [str(c) for c in candidates].index(text)
    return {str(candidates[j]) for j in neighbour_table(candidates)[index]}


@settings(max_examples=60, deadline=None)
@given(any_space, seeds)
def test_crossover_exchanges_one_run_of_whole_blocks(space, seed):
    rng = np.random.default_rng(seed)
    first, second = space.sample_genes(2, rng)
    a, b = crossover(first, second, rng)
    kept = (a == first) & (b == second)
    swapped = (a == second) & (b == first)
    assert (kept | swapped).all()
    # blocks with equal genes on both sides count as either
    forced = np.flatnonzero(~kept)
    assert swapped[forced.min() : forced.max() + 1].all() if len(forced) else True


@settings(max_examples=60, deadline=None)
@given(any_space, seeds)
def test_mutation_keeps_genes_in_range_and_its_parent(space, seed):
    rng = np.random.default_rng(seed)
    genes = space.sample_genes(1, rng)[0]
    before = genes.copy()
    child = mutate(space, genes, rng)
    assert (genes == before).all()
    assert (child >= 0).all() and (child < space.num_candidates).all()
    assert space.parse(str(space.decode(child))) == space.decode(child)


@pytest.mark.parametrize("name", ["macro", "s1"])
def test_mutation_changes_one_block_on_average(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    parents = space.sample_genes(2000, rng)
    changed = np.array([(mutate(space, g, rng) != g).sum() for g in parents])
    assert changed.mean() == pytest.approx(1, abs=0.08)


def test_half_of_the_mutations_go_to_neighbours():
    space, rng = SPACES["s1"], np.random.default_rng(0)
    near = total = 0
    for genes in space.sample_genes(1500, rng):
        child = mutate(space, genes, rng)
        for i in np.flatnonzero(child != genes):
            near += child[i] in neighbour_table(space.blocks[i].candidates)[genes[i]]
            total += 1
    # half by choice, and of the uniform half those that are neighbours by chance
    table = neighbour_table(space.blocks[0].candidates)
    by_chance = np.mean([len(row) for row in table]) / (len(table) - 1)
    assert near / total == pytest.approx(0.5 + 0.5 * by_chance, abs=0.04)


def test_neighbours_of_a_multi_path_candidate():
    assert texts_of_neighbours(SPACES["s1"], "e3k35") == {
        "e6k35",  # expansion
        "e3k3", "e3k5",  # a path removed
        "e3k357", "e3k359",  # a path added
        "e3k37", "e3k39", "e3k57", "e3k59",  # a path swapped
    }  # fmt: skip


def test_neighbours_of_a_channel_group_candidate():
    near = texts_of_neighbours(SPACES["s3"], "e3k3.5.7.9")
    assert len(near) == 1 + 4 * 3  # the expansion, and in one group another kernel
    assert {"e6k3.5.7.9", "e3k9.5.7.9", "e3k3.5.7.3"} <= near


def test_neighbours_of_a_single_path_candidate():
    assert texts_of_neighbours(SPACES["fairnas"], "e3k3") == {"e6k3", "e3k5", "e3k7"}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_neighbours_differ_in_exactly_one_thing(space):
    candidates = space.blocks[-1].candidates
    table = neighbour_table(candidates)
    for i, row in enumerate(table):
        assert i not in row
        for j in row:
            assert i in table[j]
            a, b = candidates[i], candidates[j]
            assert IDENTITY not in (a, b)
            paths = [
                max(len(set(x) - set(y)), len(set(y) - set(x)))
                for x, y in zip(a.kernels, b.kernels, strict=True)
            ]
            assert (a.expansion != b.expansion) + sum(paths) == 1


def test_blocks_without_neighbours_mutate_uniformly():
    space, rng = SPACES["macro"], np.random.default_rng(0)
    assert not any(neighbour_table(space.blocks[0].candidates))
    genes = np.zeros(8, dtype=int)
    children = np.array([mutate(space, genes, rng) for _ in range(4000)])
    counts = np.bincount(children[children != 0], minlength=3)[1:]
    assert counts[0] == pytest.approx(counts[1], rel=0.1)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["macro", "fairnas", "s1"]), st.floats(0.02, 1), seeds)
def test_initial_archs_are_distinct_and_feasible(name, tightness, seed):
    space = SPACES[name]
    cost_model = CostModel(space)
    extent = cost_model.range("flops")
    limit = extent.minimum + tightness * (extent.maximum - extent.minimum)
    problem = Problem(cost_model, limits={"flops": limit})
    genes = sample_feasible(problem, 12, np.random.default_rng(seed))
    assert len(np.unique(genes, axis=0)) == len(genes)
    assert (cost_model.flops_batch(genes) <= limit).all()
    if name != "macro":  # which has few archs under the tightest limits
        assert len(genes) == 12


def test_archs_that_are_given_are_beside_the_drawn_ones():
    space = SPACES["s1"]
    given = [space.sample(np.random.default_rng(seed)) for seed in range(30)]
    genes = sample_feasible(Problem(CostModel(space)), 20, np.random.default_rng(0), given)
    assert len(np.unique(genes, axis=0)) == 50
    assert [space.decode(row) for row in genes[:30]] == given


def test_the_tightest_budget_is_reached_by_repair():
    space = SPACES["s1"]
    cost_model = CostModel(space)
    limits = {name: cost_model.range(name).minimum for name in ("flops", "params")}
    genes = sample_feasible(Problem(cost_model, limits=limits), 5, np.random.default_rng(0))
    assert [str(space.decode(g)) for g in genes] == ["_".join(["e3k3"] * 12)]


def test_where_one_arch_is_feasible_it_is_not_found_for_each_that_is_missing(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return repair(*arguments)

    monkeypatch.setattr("mobilenas.search.operators.repair", counted)
    cost_model = CostModel(SPACES["macro"])
    problem = Problem(cost_model, limits={"flops": cost_model.range("flops").minimum})
    genes = sample_feasible(problem, 8, np.random.default_rng(0))
    assert genes.tolist() == [[0] * 8]
    assert len(calls) <= 1 + DRAWS_PER_ARCH


def test_extremes_of_cost_are_brought_within_the_limits():
    cost_model = CostModel(SPACES["s1"])
    low, high = (getattr(cost_model.range(), name) for name in ("minimum", "maximum"))
    objectives, rng = ("accuracy", "flops", "memory"), np.random.default_rng(0)
    genes = cost_extremes(Problem(cost_model, objectives), rng)
    assert cost_model.flops_batch(genes)[[0, 2]].tolist() == [low, high]
    extent = cost_model.range("memory")
    memory = cost_model.batch("memory", genes)
    assert memory[[1, 3]].tolist() == [extent.minimum, extent.maximum]

    limits = {"flops": (low + high) / 2}
    genes = cost_extremes(Problem(cost_model, objectives, limits), rng)
    flops = cost_model.flops_batch(genes)
    assert flops[0] == low
    assert 0.8 * limits["flops"] < flops[2] <= limits["flops"]


def test_unseen_drops_repeats_and_what_was_proposed():
    seen = {(0, 1)}
    batch = Population.new("X", np.array([[0, 1], [0, 2], [0, 2], [1, 1], [2, 2]]))
    others = Population.new("X", np.array([[1, 1]]))
    assert Unseen(seen).do(batch, others).get("X").tolist() == [[0, 2], [2, 2]]
