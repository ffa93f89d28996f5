"""Random numbers: one generator for each thing that is drawn, keyed by (seed, stream, ...).

Nothing random is saved: what is drawn is a function of its key, so a resumed run draws the same.
Libraries that know only the global generators get them lent, started from such a key.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import torch


class Stream(IntEnum):
    """What is drawn; the comment has the key after the seed and the stream.

    A number means one thing for good, and its keys have one length: numpy's SeedSequence takes
    [s, 1] and [s, 1, 0] for the same. Seeds are below 2**32, as a larger one fills two words.
    """

    ORDER = 1  # epoch: the order of its training images
    AUGMENT = 2  # step: changes of a whole batch in memory
    SPLITS = 3
    AUGMENT_IMAGE = 4  # step, position in the batch: changes of a single image
    ARCHS = 11  # step or super-step: the archs of a supernet's step
    CALIBRATION = 21  # the order of the images for recalibration
    MIX = 31  # step: mixup and cutmix
    DROP = 32  # step, rank: dropout and drop path
    LATENCY_DESIGN = 41  # the networks that a latency table is fitted to
    LATENCY_CHECK = 42  # those that it is checked on
    LATENCY_HOLDOUT = 43  # those that test a transferred table
    RANKED_ARCHS = 51  # the archs that a ranking is measured on
    BOOTSTRAP = 52  # resamples of a rank correlation
    TRUTH_ARCHS = 53  # the archs that a ground truth is drawn from
    ARCH_START = 61  # the architecture parameters that a search starts from
    ARCH_STEP = 62  # step: what an architecture step draws
    WEIGHT_STEP = 63  # step: what a weight step of such a search draws
    ARCH_MATRIX = 64  # node: what an architecture is compressed by
    ARCH_DROP = 71  # step, rank: dropout in forwards that an architecture is learnt from
    STAGE = 72  # number: the seed of a later stage of a search
    PROJECTION = 73  # the order in which the choices of a supernet are decided
    GRAPHS = 74  # step: a model of graphs that archs are searched in


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """numpy's generator of a stream."""
    return np.random.default_rng([seed, stream, *key])


@contextmanager
def fixed_generators(*key: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within the block the global generators of random, numpy and torch start from `key`.

    Afterwards they stand where they stood before. The generator of an accelerator is covered where
    `device` names it. Keys are integers of 0 and more; those that are to differ need the same
    number of them, as trailing zeros do not count. Threads share these generators: one thread at
    a time can use them so.
    """
    with borrowed_generators(device) as seed:
        seed(*key)
        yield


@contextmanager
def borrowed_generators(device: torch.device | str = "cpu") -> Iterator[Callable[..., None]]:
    """As `fixed_generators`, for many keys in turn: gives the function that starts from a key."""
    modules = _torch_generators(device)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is what is lent
    torch_states = [module.get_rng_state() for module in modules]
    try:
        yield partial(start_generators, device=device)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, state in zip(modules, torch_states, strict=True):
            module.set_rng_state(state)


def start_generators(*key: int, device: torch.device | str = "cpu") -> None:
    """Start the global generators from `key`, for good: in a process that does nothing else."""
    words = np.random.SeedSequence(key).generate_state(8)
    random.seed(words.tobytes())
    np.random.seed(words)  # noqa: NPY002
    for module in _torch_generators(device):
        module.manual_seed(int(words[0]) << 32 | int(words[1]))


def _torch_generators(device: torch.device | str) -> list[Any]:
    """Those of torch, on the CPU and the current accelerator if `device` is of its kind.

    torch.manual_seed would change every accelerator for good.
    """
    kind = torch.device(device).type
    return [_Cpu] if kind == "cpu" else [_Cpu, torch.get_device_module(kind)]


class _Cpu:
    """torch's generator on the CPU with the functions that modules of accelerators have."""

    get_rng_state = torch.default_generator.get_state
    set_rng_state = torch.default_generator.set_state
    manual_seed = torch.default_generator.manual_seed
