"""The draw of archs: one of each stratum, every arch equally likely, the same for a seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.rank.strata import stratified

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
