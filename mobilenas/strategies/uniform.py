"""Uniform sampling: one arch a step."""

from mobilenas.base.randomness import Stream, generator
from mobilenas.space import AnyArch, AnySpace


class Uniform:
    """One arch a step, drawn as the released MixPath code does (`sample` of the space)."""

    passes_per_step = 1
    steps_per_superstep = 1

    def __init__(self, space: AnySpace, seed: int) -> None:
        self.space = space
        self.seed = seed

    def archs(self, step: int) -> list[AnyArch]:
        """The arch of a step."""
        return [self.space.sample(generator(self.seed, Stream.ARCHS, step))]
