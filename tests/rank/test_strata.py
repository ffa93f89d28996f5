"""The draw of archs: one of each stratum, every arch equally likely, the same for a seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.rank.strata import stratified, varied_archs
from mobilenas.space import Space, load_space

SIZES = [(60, 12), (61, 12), (71, 12), (17, 12)]  # without a remainder, with small and large ones


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_each_stratum_gives_one(n: int, size: int, seed: int) -> None:
    cost = np.random.default_rng(seed).permutation(n * size)
    drawn = stratified(cost, n, seed)
    assert sorted(cost[drawn] // size) == list(range(n))
    assert list(drawn) == sorted(drawn)


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 9))
def test_as_many_distinct_rows_as_asked_for_or_all(total: int, n: int, seed: int) -> None:
    cost = np.repeat(np.arange(total), 3)[:total]  # with ties
    drawn = stratified(cost, n, seed)
    assert len(drawn) == len(set(drawn)) == min(n, total)
    assert set(drawn) <= set(range(total))
    if n >= total:
        assert list(drawn) == list(range(total))


def test_the_draw_follows_the_seed_alone() -> None:
    cost = np.random.default_rng(0).random(500)
    assert list(stratified(cost, 30, 7)) == list(stratified(cost, 30, 7))
    assert list(stratified(cost, 30, 7)) != list(stratified(cost, 30, 8))


@pytest.mark.parametrize(("total", "n"), SIZES)
def test_every_row_is_equally_likely(total: int, n: int) -> None:
    """So the mean over a draw is an unbiased estimate of the mean over all."""
    cost = np.random.default_rng(0).permutation(total)
    draws = 4000
    counts = np.zeros(total)
    for seed in range(draws):
        counts[stratified(cost, n, seed)] += 1
    share = n / total
    error = np.sqrt(draws * share * (1 - share))
    assert np.abs(counts - draws * share).max() < 4.5 * error  # 4.5 sigma, of at most 71 rows


def test_strata_are_narrower_than_a_plain_draw() -> None:
    """The mean cost of a draw varies less than that of as many archs drawn at random."""
    cost = np.random.default_rng(0).random(300)
    rng = np.random.default_rng(1)
    means = [cost[stratified(cost, 20, seed)].mean() for seed in range(200)]
    plain = [cost[rng.choice(300, 20, replace=False)].mean() for _ in range(200)]
    assert np.std(means) < 0.2 * np.std(plain)


def test_a_draw_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="n 0: must be at least 1 arch"):
        stratified(np.arange(5), 0, 0)


@pytest.mark.parametrize("reference", ["s1:width=0.125", "macro", "digits"])
def test_varied_archs_are_distinct_networks_of_all_sizes(reference: str) -> None:
    space = load_space(reference)
    archs = varied_archs(space, 40, seed=0)
    assert len(set(archs)) == 40
    assert all(space.canonical(arch) == arch for arch in archs)
    assert archs == varied_archs(space, 40, seed=0) != varied_archs(space, 40, seed=1)
    cost_model = CostModel(space)
    alike = np.random.default_rng(0)
    varied, drawn = (
        np.std([cost_model.flops(arch) for arch in found])
        for found in (archs, [space.sample(alike) for _ in range(200)])
    )
    assert varied > 1.3 * drawn  # block by block, large and small ones cancel


def test_varied_archs_of_a_small_space_are_all_there_are() -> None:
    space = load_space("digits:candidates=[e3k3, e6k3]")
    assert len(varied_archs(space, 100, seed=0)) == 2**6


def test_blocks_with_candidates_of_their_own_take_part(mixed_space: Space) -> None:
    archs = varied_archs(mixed_space, 60, seed=0)
    assert len(archs) == 60
    for block, chosen in zip(
        [b for b in mixed_space.blocks if b.searchable],
        zip(*(arch.blocks for arch in archs), strict=True),
        strict=True,
    ):
        assert len(set(chosen)) > len(block.candidates) / 2
