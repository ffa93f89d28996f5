"""Lent generators: the same draws for the same key, and no trace afterwards."""

import random
from itertools import product

import numpy as np
import pytest
import torch

from mobilenas.base.randomness import (
    Stream,
    borrowed_generators,
    fixed_generators,
    generator,
    start_generators,
)


def draws() -> tuple[float, float, float, float]:
    uniform = float(np.random.random())  # noqa: NPY002 - the global generators are what is tested
    normal = float(np.random.standard_normal())  # noqa: NPY002 - leaves a second one for later
    return random.random(), uniform, normal, float(torch.rand(()))


def states() -> tuple[object, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def test_a_key_gives_its_draws_whatever_was_before() -> None:
    with fixed_generators(3, 4, 5):
        first = draws()
    draws()
    with fixed_generators(3, 4, 5):
        assert draws() == first


def test_started_for_good_they_draw_the_same() -> None:
    with fixed_generators(3, 4, 5):
        expected = draws()
    with borrowed_generators():
        start_generators(3, 4, 5)
        assert draws() == expected


def test_keys_differ_in_every_generator() -> None:
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 2**40), (2**33, 0, 0)]
    with borrowed_generators() as seed:
        drawn = []
        for key in keys:
            seed(*key)
            drawn.append(draws())
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(keys)


def test_the_generators_stand_where_they_stood_even_after_an_error() -> None:
    draws()  # numpy keeps the second of a pair of normal numbers
    before = states()
    with fixed_generators(1):
        draws()
    assert states() == before
    with pytest.raises(ZeroDivisionError), borrowed_generators() as seed:
        seed(2)
        draws()
        raise ZeroDivisionError
    assert states() == before


def test_accelerators_that_are_not_named_are_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError(f"seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    with fixed_generators(1):
        draws()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_generator_of_a_named_accelerator_is_lent_too() -> None:
    before = torch.cuda.get_rng_state().tolist()
    drawn = []
    for _ in range(2):
        with fixed_generators(1, device="cuda"):
            drawn.append(torch.rand(3, device="cuda").tolist())
    assert drawn[0] == drawn[1]
    assert torch.cuda.get_rng_state().tolist() == before


KEY_LENGTHS = {Stream.ORDER: 1, Stream.AUGMENT: 1, Stream.ARCHS: 1, Stream.MIX: 1}
KEY_LENGTHS |= {Stream.AUGMENT_IMAGE: 2, Stream.DROP: 2}


def test_no_two_streams_and_keys_draw_the_same() -> None:
    drawn = {}
    for seed, stream in product((0, 1, 2, 2**32 - 1), Stream):
        for key in product(range(4), repeat=KEY_LENGTHS.get(stream, 0)):
            first = int(generator(seed, stream, *key).integers(2**63))
            assert first not in drawn, (drawn[first], (seed, stream, key))
            drawn[first] = seed, stream, key


def test_a_number_means_one_stream_for_good() -> None:
    """Else a run that is resumed would draw other images, changes and archs."""
    assert (Stream.ORDER, Stream.AUGMENT, Stream.SPLITS, Stream.AUGMENT_IMAGE) == (1, 2, 3, 4)
    assert (Stream.ARCHS, Stream.CALIBRATION, Stream.MIX, Stream.DROP) == (11, 21, 31, 32)
