"""The sandwich rule (Yu and Huang 2019; BigNAS, Yu et al. 2020)."""

from mobilenas.base.randomness import Stream, generator
from mobilenas.cost import CostModel
from mobilenas.space import Arch, Space


class Sandwich:
    """A step trains the largest arch, the smallest one and a few random ones, in this order.

    Random ones are drawn as `Uniform` draws.
    """

    steps_per_superstep = 1

    def __init__(self, space: Space, seed: int, random_archs: int) -> None:
        self.space = space
        self.seed = seed
        self.random_archs = random_archs
        self.passes_per_step = 2 + random_archs
        self._ends = largest_and_smallest(space)

    def archs(self, step: int) -> list[Arch]:
        """The archs of a step."""
        rng = generator(self.seed, Stream.ARCHS, step)
        return self._ends + [self.space.sample(rng) for _ in range(self.random_archs)]


def largest_and_smallest(space: Space) -> list[Arch]:
    """The archs of most and of least FLOPs. In the largest a block of several paths, linear ones
    too, has as many as are allowed.
    """
    costs = CostModel(space, folded=False)
    # Canonical as what is searched, so that the weights that they train are those of networks.
    return [space.canonical(arch) for arch in (costs.largest("flops"), costs.smallest("flops"))]
