"""Splits: disjoint, stratified, a function of the seed, and stored without loss."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.data import Splits, make_splits


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    sizes = draw(st.lists(st.integers(1, 30), min_size=2, max_size=12))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)
    validate = draw(st.integers(0, len(labels) - 1))
    left = len(labels) - validate
    limit = draw(st.none() | st.integers(1, left + 5))
    calibrate = draw(st.integers(0, min(left, limit or left)))
    seed = draw(st.integers(0, 2**32))
    wanted = {"seed": seed, "validate": validate, "calibrate": calibrate, "limit": limit}
    return labels, wanted


def shares_kept(chosen: np.ndarray, pool: np.ndarray, labels: np.ndarray) -> bool:
    """Whether each class has its proportion of the pool, to less than one image."""
    classes = labels.max() + 1
    have = np.bincount(labels[chosen], minlength=classes)
    share = np.bincount(labels[pool], minlength=classes) * len(chosen) / max(len(pool), 1)
    return bool(np.all(np.abs(have - share) < 1))


@settings(max_examples=200, deadline=None)
@given(requests())
def test_splits_are_what_was_asked_for(request_: tuple[np.ndarray, dict[str, Any]]) -> None:
    labels, wanted = request_
    splits = make_splits(labels, **wanted)
    left = len(labels) - wanted["validate"]
    assert len(splits.validate) == wanted["validate"]
    assert len(splits.calibrate) == wanted["calibrate"]
    assert len(splits.train) == min(left, wanted["limit"] or left)
    for part in (splits.train, splits.calibrate, splits.validate):
        assert part.dtype == np.int64
        assert np.all(np.diff(part) > 0)
    assert not set(splits.train) & set(splits.validate)
    assert set(splits.calibrate) <= set(splits.train)

    everything = np.arange(len(labels))
    rest = np.setdiff1d(everything, splits.validate)
    assert shares_kept(splits.validate, everything, labels)
    assert shares_kept(splits.train, rest, labels)
    assert shares_kept(splits.calibrate, splits.train, labels)


@settings(max_examples=50, deadline=None)
@given(requests())
def test_same_request_same_splits_and_json_keeps_them(
    request_: tuple[np.ndarray, dict[str, Any]],
) -> None:
    labels, wanted = request_
    first, second = make_splits(labels, **wanted), make_splits(labels, **wanted)
    stored = Splits.from_json(json.loads(json.dumps(first.to_json())))
    for name in ("train", "calibrate", "validate"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        np.testing.assert_array_equal(getattr(first, name), getattr(stored, name))
        assert getattr(stored, name).dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 10), st.integers(2, 20), st.data())
def test_equal_classes_get_counts_that_differ_by_at_most_one(
    classes: int, size: int, data: st.DataObject
) -> None:
    labels = np.tile(np.arange(classes), size)
    validate = data.draw(st.integers(0, len(labels) - 1))
    splits = make_splits(labels, seed=0, validate=validate, calibrate=0)
    assert np.ptp(np.bincount(labels[splits.validate], minlength=classes)) <= 1
    assert np.ptp(np.bincount(labels[splits.train], minlength=classes)) <= 1


def test_held_out_images_may_be_given() -> None:
    labels = np.arange(100) % 5
    held_out = np.arange(3, 90, 3)
    splits = make_splits(labels, seed=1, validate=50, calibrate=8, limit=40, held_out=held_out)
    assert splits.validate.tolist() == held_out.tolist()
    assert len(splits.train) == 40 and not np.isin(splits.train, held_out).any()
    some = make_splits(labels, seed=1, validate=10, calibrate=0, held_out=held_out)
    assert len(some.validate) == 10 and np.isin(some.validate, held_out).all()
    assert some.train.tolist() == np.setdiff1d(np.arange(100), some.validate).tolist()


def test_another_seed_gives_another_split_and_limit_leaves_validate() -> None:
    labels = np.tile(np.arange(10), 50)
    one = make_splits(labels, seed=0, validate=100, calibrate=50)
    other = make_splits(labels, seed=1, validate=100, calibrate=50)
    limited = make_splits(labels, seed=0, validate=100, calibrate=50, limit=60)
    assert not np.array_equal(one.validate, other.validate)
    np.testing.assert_array_equal(one.validate, limited.validate)
    assert set(limited.train) <= set(one.train)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"validate": 100, "calibrate": 0}, "recipe: --set validate_images=N$"),
        (
            {"validate": 60, "calibrate": 41},
            r"\(validate_images 60\); .* recipe: --set calibrate_images=N$",
        ),
        ({"validate": 100, "calibrate": 0}, "validate_images 100: must be less than the 100"),
        ({"validate": -1, "calibrate": 0}, "validate_images -1: must be 0 or more"),
        ({"validate": 0, "calibrate": -2}, "calibrate_images -2: must be 0 or more"),
        ({"validate": 60, "calibrate": 41}, "calibrate_images 41: must be at most 40"),
        ({"validate": 0, "calibrate": 31, "limit": 30}, r"must be at most 30, .* limit 30"),
        ({"validate": 0, "calibrate": 0, "limit": 0}, "limit 0: must be at least 1"),
    ],
)
def test_impossible_numbers_are_refused(wanted: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_splits(np.tile(np.arange(10), 10), seed=0, **wanted)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"train": [0, 1], "calibrate": [0]}, "validate has to be a list of integers"),
        ({"train": [0, "1"], "calibrate": [0], "validate": []}, "train has to be a list"),
        ({"train": [1, 0], "calibrate": [0], "validate": []}, "train has to be a sorted list"),
        ({"train": [-1, 0], "calibrate": [0], "validate": []}, "train has to be a sorted list"),
        ({"train": [0, 1], "calibrate": [2], "validate": []}, "calibrate has to be a subset"),
        ({"train": [0, 1], "calibrate": [0], "validate": [1]}, "must not share images"),
    ],
)
def test_damaged_state_is_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Splits.from_json(state)
