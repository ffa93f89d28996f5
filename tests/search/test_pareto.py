import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mobilenas.search import hypervolume, non_dominated


def dominates(a, b):
    return bool(np.all(a <= b) and np.any(a < b))


# Small integers make equal coordinates and equal points likely.
points = st.tuples(st.integers(1, 25), st.integers(2, 3)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 6))
)


@settings(max_examples=100, deadline=None)
@given(points)
def test_non_dominated_is_the_definition(values):
    expected = [i for i, a in enumerate(values) if not any(dominates(b, a) for b in values)]
    assert non_dominated(values).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(points)
def test_hypervolume_counts_the_dominated_cells(values):
    # With integer points the dominated volume is a number of unit cells.
    size = 5
    axes = np.meshgrid(*[np.arange(size)] * values.shape[1], indexing="ij")
    cells = np.stack(axes, axis=-1).reshape(-1, values.shape[1])
    covered = (values[None] <= cells[:, None]).all(axis=2).any(axis=1).sum()
    assert hypervolume(values, np.full(values.shape[1], size)) == pytest.approx(covered)


def test_hypervolume_of_nothing_is_zero():
    assert hypervolume(np.empty((0, 2)), np.array([1.0, 1.0])) == 0
