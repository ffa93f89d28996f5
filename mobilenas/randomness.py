"""The global generators, lent to code of other libraries that knows no others."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    torch_generators = [torch.default_generator]
    device = torch.device(device)
    if device.type != "cpu":
        module = torch.get_device_module(device)
        module.init()
        index = torch.accelerator.current_device_index() if device.index is None else device.index
        torch_generators.append(module.default_generators[index])
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is what is lent
    torch_states = [generator.get_state() for generator in torch_generators]

    def seed(*key: int) -> None:
        words = np.random.SeedSequence(key).generate_state(8)
        random.seed(words.tobytes())
        np.random.seed(words)  # noqa: NPY002
        for generator in torch_generators:  # torch.manual_seed changes every accelerator for good
            generator.manual_seed(int(words[0]) << 32 | int(words[1]))

    try:
        yield seed
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for generator, state in zip(torch_generators, torch_states, strict=True):
            generator.set_state(state)
