"""A stand-in for a supernet: accuracies that add up over blocks, so the best arch is known."""

from collections.abc import Callable, Sequence

import numpy as np

from mobilenas.search import Measured
from mobilenas.space import Arch, Space

Floats = list[float]


def weights(space: Space, seed: int = 0) -> list[np.ndarray]:
    """Accuracies that add up over blocks; more FLOPs in a block help on average."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.random(len(b.candidates))) + 0.3 * rng.random() for b in space.blocks]


def additive(space: Space, seed: int = 0) -> Callable[[Sequence[Arch]], Floats]:
    """The accuracy of each of a list of archs."""
    table = weights(space, seed)
    top = sum(w.max() for w in table)

    def accuracy(arch: Arch) -> float:
        genes = space.encode(arch)
        return float(sum(w[g] for w, g in zip(table, genes, strict=True)) / top)

    return lambda archs: [accuracy(arch) for arch in archs]


def naswot(space: Space) -> Callable[[Sequence[Arch]], Floats]:
    """A stand-in for NASWOT in which other blocks matter, and kernels of 3 cost."""
    others = additive(space, seed=1)

    def score(archs: Sequence[Arch]) -> Floats:
        small = [sum(block.kernels == ((3,),) for block in arch.blocks) for arch in archs]
        return [700 + 30 * x - 20 * n for x, n in zip(others(archs), small, strict=True)]

    return score


class Counting:
    """What a search measures. Remembers the archs, and raises before there are more than `fail_at`.

    by_score: whether NASWOT is measured too.
    """

    def __init__(self, space: Space, fail_at: int | None = None, by_score: bool = False) -> None:
        self.archs: list[Arch] = []
        self.fail_at = fail_at
        self.accuracy = additive(space)
        self.naswot = naswot(space) if by_score else None

    def __call__(self, archs: list[Arch]) -> list[Measured]:
        if self.fail_at is not None and len(self.archs) + len(archs) > self.fail_at:
            raise KeyboardInterrupt
        self.archs += archs
        scores = [None] * len(archs) if self.naswot is None else self.naswot(archs)
        return [Measured(*pair) for pair in zip(self.accuracy(archs), scores, strict=True)]
