"""The order of an epoch: a permutation, mixed within windows of blocks that are read in turn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.data.order import Blocks, EpochOrder, shuffle


@st.composite
def blocks_and_indices(draw: st.DrawFn) -> tuple[Blocks, np.ndarray, int]:
    lengths = np.array([*draw(st.lists(st.integers(0, 6), min_size=1, max_size=12)), 1])
    sizes = np.array(
        draw(st.lists(st.integers(1, 50), min_size=len(lengths), max_size=len(lengths)))
    )
    total = int(lengths.sum())
    indices = np.array(draw(st.lists(st.integers(0, total - 1), unique=True)), dtype=np.int64)
    return Blocks(np.cumsum(lengths) - lengths, sizes), indices, draw(st.integers(1, 100))


@given(blocks_and_indices(), st.integers(0, 100))
def test_shuffled_blocks_are_a_permutation_that_holds_few_at_a_time(
    case: tuple[Blocks, np.ndarray, int], seed: int
) -> None:
    blocks, indices, window = case
    order = shuffle(indices, np.random.default_rng(seed), blocks, window)
    assert sorted(order) == sorted(indices)
    # Whatever lies between the first and the last image of a block has to be held with it.
    block = np.searchsorted(blocks.starts, order, side="right") - 1
    spans = [np.flatnonzero(block == one)[[0, -1]] for one in np.unique(block)]
    for first, last in spans:
        held = np.unique(block[first : last + 1])
        assert blocks.sizes[held].sum() < window + blocks.sizes.max()


def test_blocks_of_one_window_are_mixed_and_windows_follow_at_random() -> None:
    blocks = Blocks(np.arange(0, 400, 10), np.full(40, 100))
    indices = np.arange(400)
    orders = [shuffle(indices, np.random.default_rng(seed), blocks, 800) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    windows = [order.reshape(5, 80) // 10 for order in orders]
    for window in (*windows[0], *windows[2]):
        assert len(set(window)) == 8
        assert len(set(window[:40])) == 8  # each block in both halves
    assert set(windows[0][0]) != set(windows[2][0])


def test_without_blocks_or_with_few_every_order_is_possible() -> None:
    few = Blocks(np.array([0, 2]), np.array([1, 1]))
    for blocks in (None, few):
        seen = {
            tuple(shuffle(np.arange(4), np.random.default_rng(seed), blocks)) for seed in range(400)
        }
        assert len(seen) == 24


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    blocks = Blocks(np.arange(0, 40, 4), np.full(10, 100 << 20))
    order = EpochOrder(np.arange(40), 7, seed=3, blocks=blocks)
    assert order.steps_per_epoch == 5
    steps = [order(step) for step in range(10)]
    for epoch in (steps[:5], steps[5:]):
        assert len(set(np.concatenate(epoch))) == 35
    assert not np.array_equal(steps[0], steps[5])
    again = EpochOrder(np.arange(40), 7, seed=3, blocks=blocks)
    for step in (9, 2, 6):
        np.testing.assert_array_equal(again(step), steps[step])
    assert not np.array_equal(EpochOrder(np.arange(40), 7, seed=4, blocks=blocks)(0), steps[0])


def test_a_batch_size_without_enough_images_is_refused() -> None:
    with pytest.raises(BadInput, match=r"batch_size 5: must be 1\.\.4"):
        EpochOrder(np.arange(4), 5, seed=0)
