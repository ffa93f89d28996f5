"""Fairness, by counting what the strategies draw."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.space import Arch, Block, Candidate, Space, load_space, space_from_dict
from mobilenas.strategies import Fair, Uniform, make_strategy

# Passes a step and steps a super-step, worked out by hand.
SPACES = {
    "fairnas": (6, 1),
    "macro": (3, 1),
    "s1:candidates.max_paths=1": (8, 1),
    "s1:candidates.max_paths=2": (4, 4),
    "s1:candidates.max_paths=3": (4, 6),
    "s1": (4, 8),
    "s3": (4, 2),
    # 8 candidates, 9 with the identity
    "s1:candidates.max_paths=1,candidates.skip=true": (72, 1),
    # four kernels; 4 (expansion, paths), 5 with the identity
    "s1:candidates.max_paths=2,candidates.skip=true": (4, 20),
}
Pick = Callable[[Arch, int], Any]
STEPS = st.integers(0, 10_000)
SEEDS = st.integers(0, 2**32 - 1)


def is_single_path(block: Block) -> bool:
    return all(len(c.kernels) <= 1 and c.num_paths <= 1 for c in block.candidates)


def assert_equal_use(found: Iterable[Any], wanted: Iterable[Any]) -> None:
    """Everything wanted is found, equally often, and nothing else."""
    counts = Counter(found)
    assert counts.keys() == set(wanted)
    assert len(set(counts.values())) == 1, counts


def paths(candidates: Iterable[Candidate]) -> list[tuple[int, int, int]]:
    """Every (channel group, expansion, kernel) that is active, once a pass."""
    return [
        (group, c.expansion, kernel)
        for c in candidates
        for group, kernels in enumerate(c.kernels)
        for kernel in kernels
    ]


def norms(candidates: Iterable[Candidate]) -> list[tuple[int, int]]:
    """The shadow batch norm (expansion, k) of each pass; (0, 0) is the identity."""
    return [(c.expansion, c.num_paths) for c in candidates]


def check_superstep(strategy: Fair, superstep: int) -> None:
    space = strategy.space
    first = superstep * strategy.steps_per_superstep
    steps = [strategy.archs(step) for step in range(first, first + strategy.steps_per_superstep)]
    assert all(len(archs) == strategy.passes_per_step for archs in steps)
    for archs in steps:
        for arch in archs:
            space.encode(arch)  # an arch of the space
    for number, block in enumerate(space.blocks):
        by_step = [[arch.blocks[number] for arch in archs] for archs in steps]
        whole = [candidate for step in by_step for candidate in step]
        if is_single_path(block):
            for step in by_step:
                assert_equal_use(step, block.candidates)
            continue
        for step in by_step:
            assert len(set(norms(step))) == 1  # one expansion and number of paths a step
            used, (expansion, k) = Counter(paths(step)), norms(step)[0]
            times = k * len(step) // len(block.kernels)
            every = product(range(block.groups), [expansion], block.kernels)
            assert used == ({} if k == 0 else dict.fromkeys(every, times))
        assert_equal_use(norms(whole), {(c.expansion, c.num_paths) for c in block.candidates})
        assert_equal_use(
            paths(whole), product(range(block.groups), block.expansions, block.kernels)
        )


@pytest.mark.parametrize("reference", SPACES)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, superstep=st.integers(0, 1000))
def test_everything_is_used_equally(reference: str, seed: int, superstep: int) -> None:
    strategy = Fair(load_space(reference), seed)
    assert (strategy.passes_per_step, strategy.steps_per_superstep) == SPACES[reference]
    check_superstep(strategy, superstep)


def test_blocks_that_differ_in_length_are_each_fair(mixed_space: Space) -> None:
    strategy = Fair(mixed_space, 3)
    # candidates 2, 3, 5, kernels 3 and 2; (expansion, paths) 5 and 1
    assert (strategy.passes_per_step, strategy.steps_per_superstep) == (30, 5)
    for superstep in (0, 1, 17):
        check_superstep(strategy, superstep)


def test_shorter_blocks_are_permuted_anew_in_each_repeat(mixed_space: Space) -> None:
    """Repeats of one permutation would tie the candidates of two blocks together."""
    strategy = Fair(mixed_space, 0)
    orders = {
        tuple(arch.blocks[1] for arch in strategy.archs(0)[i : i + 3]) for i in range(0, 30, 3)
    }
    assert len(orders) > 1


@pytest.mark.parametrize("reference", ["macro", "s1", "s3"])
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, steps=st.lists(STEPS, min_size=2, max_size=5))
def test_a_step_draws_the_same_archs_whatever_came_before(
    reference: str, seed: int, steps: list[int]
) -> None:
    space = load_space(reference)
    for name in ("fair", "uniform"):
        strategy = make_strategy(name, space, seed)
        forward = [strategy.archs(step) for step in steps]
        assert [strategy.archs(step) for step in reversed(steps)] == forward[::-1]
        assert make_strategy(name, space, seed).archs(steps[0]) == forward[0]


@pytest.mark.parametrize("name", ["fair", "uniform"])
def test_seeds_and_steps_differ(name: Any) -> None:
    space = load_space("s1")
    strategy, other = make_strategy(name, space, 0), make_strategy(name, space, 1)
    steps = [tuple(strategy.archs(step)) for step in range(40)]
    assert len(set(steps)) == 40
    assert tuple(other.archs(0)) not in steps


@cache
def drawn(reference: str, steps: int) -> list[list[Arch]]:
    strategy = Fair(load_space(reference), 0)
    return [strategy.archs(step) for step in range(steps)]


def subsets_drawn(archs: Iterable[Arch], expansion: int, k: int) -> Counter[tuple[int, ...]]:
    """How often each subset was drawn among the S1 blocks of that expansion and path number."""
    candidates = (c for arch in archs for c in arch.blocks)
    counts = Counter(c.kernels[0] for c in candidates if norms([c]) == [(expansion, k)])
    assert counts.keys() == set(combinations((3, 5, 7, 9), k))
    return counts


@pytest.mark.parametrize("expansion", [3, 6])
def test_windows_give_every_subset_equally_often(expansion: int) -> None:
    archs = [arch for step in drawn("s1", 400) for arch in step]
    for k in (1, 2, 3, 4):
        counts = subsets_drawn(archs, expansion, k)
        shares = np.array(list(counts.values())) / counts.total()
        if k == 2:  # 600 steps, four of the six pairs in each: standard deviation 0.005
            assert np.abs(shares - 1 / 6).max() < 0.02
        else:  # all subsets are in every step
            assert np.ptp(shares) == 0


def test_a_step_of_pairs_has_four_of_the_six_in_a_ring() -> None:
    strategy = Fair(load_space("s1"), 0)
    for step in range(8):
        archs = strategy.archs(step)
        for number in range(12):
            used = [arch.blocks[number].kernels[0] for arch in archs]
            if len(used[0]) == 2:
                assert len(set(used)) == 4


@pytest.mark.parametrize(
    ("reference", "steps", "first", "second"),
    [
        ("macro", 200, lambda a, i: a.blocks[i], lambda a, i: a.blocks[i + 1]),
        ("s3", 50, lambda a, i: a.blocks[i].kernels[0], lambda a, i: a.blocks[i].kernels[1]),
        ("s3", 50, lambda a, i: a.blocks[i].kernels[2], lambda a, i: a.blocks[i + 1].kernels[2]),
        ("s1", 400, lambda a, i: a.blocks[i].num_paths, lambda a, i: a.blocks[i + 1].num_paths),
        ("s1", 400, lambda a, i: a.blocks[i].expansion, lambda a, i: a.blocks[i + 1].num_paths),
    ],
)
def test_blocks_and_channel_groups_permute_on_their_own(
    reference: str, steps: int, first: Pick, second: Pick
) -> None:
    """All pairs of choices are equally likely."""
    archs = [arch for step in drawn(reference, steps) for arch in step]
    pairs = Counter(
        (first(arch, i), second(arch, i)) for arch in archs for i in range(len(arch) - 1)
    )
    ones, twos = ({pair[i] for pair in pairs} for i in (0, 1))
    assert len(pairs) == len(ones) * len(twos)
    expected = pairs.total() / len(pairs)
    assert all(abs(n / expected - 1) < 0.2 for n in pairs.values()), pairs


def test_permutations_are_all_equally_likely() -> None:
    strategy = Fair(load_space("macro"), 0)
    orders = Counter(tuple(arch.blocks[5] for arch in strategy.archs(step)) for step in range(3000))
    assert len(orders) == math.factorial(3)
    assert all(abs(n - 500) < 5 * 20.4 for n in orders.values())  # 5 sigma


def test_uniform_sampling_draws_one_arch_a_step_as_the_released_code() -> None:
    strategy = Uniform(load_space("s1"), 0)
    archs = [strategy.archs(step) for step in range(1500)]
    assert all(len(step) == strategy.passes_per_step == 1 for step in archs)
    for expansion, k in product((3, 6), (1, 2, 3, 4)):
        counts = subsets_drawn((arch for (arch,) in archs), expansion, k)
        assert counts.total() == pytest.approx(18_000 / 8, rel=0.1)
        assert all(abs(n * len(counts) / counts.total() - 1) < 0.25 for n in counts.values())


@pytest.mark.parametrize(
    "candidates",
    [
        ["e3k3", "e3k35"],  # e3k5 is missing
        ["e3k3", "e3k5", "e3k35", "e6k3"],
        ["e3k3", "e3k5", "e3k7", "e3k35", "e3k37"],
        ["id", "e3k3", "e3k35"],
        ["e3k3.5", "e3k5.3"],  # e3k3.3 and e3k5.5 are missing
    ],
)
def test_paths_without_all_subsets_are_refused_by_the_fair_strategy_only(
    candidates: list[str], mixed_data: dict[str, Any]
) -> None:
    mixed_data["candidates"] = candidates
    space = space_from_dict(mixed_data)
    with pytest.raises(BadInput, match=r"block 2: .*all kernel subsets.*--strategy uniform"):
        make_strategy("fair", space, 0)
    assert len(make_strategy("uniform", space, 0).archs(0)) == 1


def test_a_list_that_is_a_full_product_is_accepted(mixed_data: dict[str, Any]) -> None:
    mixed_data["candidates"] = ["id", "e6k35", "e6k5", "e6k3"]
    check_superstep(Fair(space_from_dict(mixed_data), 0), 2)
