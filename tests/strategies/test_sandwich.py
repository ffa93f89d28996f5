"""The sandwich: what is largest and smallest, and that a step is a function of seed and number."""

import math
from itertools import product

import pytest

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.space import Arch, Block, Space, load_any_space, load_space
from mobilenas.strategies import Sandwich, make_strategy
from mobilenas.strategies.phases import Phase, phase_steps

SPACES = [
    *("s1", "s1:candidates.max_paths=2", "s1:candidates.max_paths=2,path_activation=after_sum"),
    *("s2", "s3", "macro", "fairnas", "proxyless", "digits"),
]


def is_largest(block: Block, arch: Arch, number: int) -> bool:
    chosen = arch.blocks[number]
    kernels = block.kernels[-1:] if block.max_paths == 1 else block.kernels[-block.max_paths :]
    return chosen.expansion == max(block.expansions) and chosen.kernels == (kernels,) * block.groups


@pytest.mark.parametrize("reference", SPACES)
def test_a_step_has_the_largest_the_smallest_and_random_archs(reference: str) -> None:
    space = load_space(reference)
    strategy = Sandwich(space, 0, random_archs=3)
    costs = CostModel(space, folded=False)
    steps = [strategy.archs(step) for step in range(20)]
    assert strategy.passes_per_step == 5
    assert {len(archs) for archs in steps} == {5}
    assert len({archs[0] for archs in steps}) == len({archs[1] for archs in steps}) == 1
    largest, smallest, *_ = steps[0]
    assert all(is_largest(block, largest, i) for i, block in enumerate(space.blocks))
    assert costs.flops(largest) == costs.range("flops").maximum
    assert costs.flops(smallest) == costs.range("flops").minimum
    assert costs.params(largest) == costs.range("params").maximum
    for arch in (largest, smallest):
        assert space.canonical(arch) == arch
    random = [arch for archs in steps for arch in archs[2:]]
    assert len(set(random)) > 50  # of 60
    for arch in random:
        space.encode(arch)


def test_the_ends_are_those_of_all_archs(digits: Space) -> None:
    costs = CostModel(digits, folded=False)
    archs = [Arch(blocks) for blocks in product(*(block.candidates for block in digits.blocks))]
    flops = [costs.flops(arch) for arch in archs[:: max(1, len(archs) // 2000)]]
    largest, smallest = Sandwich(digits, 0, 0).archs(0)
    assert costs.flops(smallest) <= min(flops) < max(flops) <= costs.flops(largest)


@pytest.fixture
def digits() -> Space:
    return load_space("digits")


def test_random_archs_cover_every_candidate(digits: Space) -> None:
    strategy = Sandwich(digits, 0, 2)
    drawn = [arch for step in range(300) for arch in strategy.archs(step)[2:]]
    for number, block in enumerate(digits.blocks):
        assert {arch.blocks[number] for arch in drawn} == set(block.candidates)


@pytest.mark.parametrize("reference", ["macro", "s1", "s3"])
def test_a_step_is_a_function_of_seed_and_number(reference: str) -> None:
    space = load_space(reference)
    strategy, other = (make_strategy("sandwich", space, seed, 2) for seed in (0, 1))
    forward = [strategy.archs(step) for step in range(30)]
    assert [strategy.archs(step) for step in reversed(range(30))] == forward[::-1]
    assert make_strategy("sandwich", space, 0, 2).archs(17) == forward[17]
    assert len({tuple(archs) for archs in forward}) == 30
    assert other.archs(0) != forward[0]
    assert [archs[:2] for archs in forward] == [other.archs(0)[:2]] * 30


@pytest.mark.parametrize("random_archs", [0, 1, 2, 5])
def test_the_budget_counts_every_arch(random_archs: int) -> None:
    space = load_space("macro")
    strategy = make_strategy("sandwich", space, 0, random_archs)
    (steps,) = phase_steps([Phase(strategy, 3)], 800, batch_size=8)
    spent = steps * len(strategy.archs(0))
    assert spent == math.ceil(300 / (2 + random_archs)) * (2 + random_archs)


def test_cells_are_refused() -> None:
    space = load_any_space("nb101")
    with pytest.raises(BadInput, match=r"nb101: sandwich .*blocks; .*--strategy uniform"):
        make_strategy("sandwich", space, 0)
