"""What a supernet trains before its strategy has the whole space, as once-for-all networks do."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from mobilenas.base.errors import BadInput
from mobilenas.space import AnySpace, Arch, CellSpace, Space
from mobilenas.strategies import Strategy, largest_and_smallest, make_strategy
from mobilenas.train.config import SupernetConfig


class Phase(NamedTuple):
    """A strategy, and the passes since the start of the training after which it ends."""

    strategy: Strategy
    end: float


class Alone:
    """One arch at every step."""

    passes_per_step = 1
    steps_per_superstep = 1

    def __init__(self, arch: Arch) -> None:
        self.arch = arch

    def archs(self, step: int) -> list[Arch]:
        """That arch."""
        return [self.arch]


def first_phases(config: SupernetConfig, space: AnySpace, seed: int) -> list[Phase]:
    """The largest arch alone, for warmup_largest_passes, and then progressive shrinking (Cai et al.
    2020), for shrink_passes: the config's strategy in growing parts of the space, for equally many
    passes each.

    Raises BadInput where the space has no largest arch, or nothing to shrink.
    """
    alone, shrink = config.warmup_largest_passes, config.shrink_passes
    if not alone and not shrink:
        return []
    if isinstance(space, CellSpace):
        key, passes = ("warmup_largest_passes", alone) if alone else ("shrink_passes", shrink)
        raise BadInput(
            f"{key} {passes:g}: space {space.name} has cells and no largest arch; it must be 0"
        )
    phases = [Phase(Alone(largest_and_smallest(space)[0]), alone)] if alone else []
    parts = growing_parts(space) if shrink else []
    if shrink and not parts:
        raise BadInput(
            f"shrink_passes {shrink:g}: the blocks of space {space.name} have one expansion and "
            "cannot be left out; it must be 0"
        )
    for number, part in enumerate(parts, 1):
        strategy = make_strategy(config.strategy, part, seed, config.sandwich_random)
        phases.append(Phase(strategy, alone + shrink * number / len(parts)))
    return phases


def growing_parts(space: Space) -> list[Space]:
    """The parts that progressive shrinking trains before the whole space: every set of kernels, at
    the largest expansion; then blocks may be left out, too. Smaller expansions come with the whole.
    """
    parts = [
        space.keep(lambda b, c: not c.is_identity and c.expansion == b.expansions[-1]),
        space.keep(lambda b, c: c.is_identity or c.expansion == b.expansions[-1]),
        space,
    ]
    return [part for part, larger in pairwise(parts) if part.num_archs < larger.num_archs]


def phase_steps(phases: Sequence[Phase], num_images: int, batch_size: int) -> list[int]:
    """Optimizer steps of each phase, rounded up to whole super-steps; of the last one at least one.

    A step costs as many passes over its batch as it has archs.
    """
    steps: list[int] = []
    spent = 0  # images, an image counted once an arch
    for strategy, end in phases:
        a_step = batch_size * strategy.passes_per_step
        least = 1 if len(steps) == len(phases) - 1 else 0
        needed = max(least, math.ceil((end * num_images - spent) / a_step))
        whole = strategy.steps_per_superstep
        steps.append(math.ceil(needed / whole) * whole)
        spent += steps[-1] * a_step
    return steps
