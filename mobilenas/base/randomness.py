"""The global generators, lent to code of other libraries that knows no others."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


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
    # Those of torch, on the CPU and the current accelerator; torch.manual_seed would change every
    # accelerator for good.
    lent: list[Any] = [_Cpu]
    kind = torch.device(device).type
    if kind != "cpu":
        lent.append(torch.get_device_module(kind))
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is what is lent
    torch_states = [module.get_rng_state() for module in lent]

    def seed(*key: int) -> None:
        words = np.random.SeedSequence(key).generate_state(8)
        random.seed(words.tobytes())
        np.random.seed(words)  # noqa: NPY002
        for module in lent:
            module.manual_seed(int(words[0]) << 32 | int(words[1]))

    try:
        yield seed
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, state in zip(lent, torch_states, strict=True):
            module.set_rng_state(state)


class _Cpu:
    """torch's generator on the CPU with the functions that modules of accelerators have."""

    get_rng_state = torch.default_generator.get_state
    set_rng_state = torch.default_generator.set_state
    manual_seed = torch.default_generator.manual_seed
