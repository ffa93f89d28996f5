"""Strict fairness (FairNAS, Chu et al. 2021), extended to blocks of several paths."""

import math

import numpy as np

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.space import IDENTITY, Arch, Block, Candidate, Space

_Phase = tuple[int, int] | None  # (expansion, number of paths); None is a walk over the candidates


class Fair:
    """Strict fairness: equal use of everything within a (super-)step, by construction.

    Single-path blocks follow FairNAS (Chu et al. 2021): a step walks through a
    random permutation of the block's candidates, one a pass.

    Multi-path blocks use cyclic windows. In a step a block has one expansion and one number of
    paths k; a random permutation of its n kernels is drawn, and pass t activates the k kernels
    that start at place t, wrapping around: each kernel is active k times in n passes. Over a
    super-step the block walks through a random permutation of all its (expansion, k), so every
    (kernel, expansion) is used equally often, and every shadow batch norm in n passes.

    Blocks that differ in length repeat, freshly permuted, up to the least common multiple.
    Raises BadInput for a multi-path block whose candidates are not a full product.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed
        self._phases = [_phases(block) for block in space.blocks]
        self.steps_per_superstep = math.lcm(*(len(p) for p in self._phases))
        self.passes_per_step = math.lcm(*(_passes(b) for b in space.blocks))

    def archs(self, step: int) -> list[Arch]:
        """The archs of a step."""
        superstep, position = divmod(step, self.steps_per_superstep)
        rng = generator(self.seed, Stream.ARCHS, superstep)
        plans = [
            self._plan(block, phases, rng)
            for block, phases in zip(self.space.blocks, self._phases, strict=True)
        ]
        return [Arch(blocks) for blocks in zip(*(plan[position] for plan in plans), strict=True)]

    def _plan(
        self, block: Block, phases: list[_Phase], rng: np.random.Generator
    ) -> list[list[Candidate]]:
        """The candidates of a block for each step of a super-step and each pass of the step."""
        walk = _rounds(phases, self.steps_per_superstep, rng)
        repeats = self.passes_per_step // _passes(block)
        return [[c for _ in range(repeats) for c in _round(block, phase, rng)] for phase in walk]


def _is_single_path(block: Block) -> bool:
    return block.max_paths == 1 and block.groups == 1


def _phases(block: Block) -> list[_Phase]:
    if _is_single_path(block):
        return [None]
    phases = sorted({(c.expansion, c.num_paths) for c in block.candidates})
    full = sum(1 if k == 0 else math.comb(len(block.kernels), k) ** block.groups for _, k in phases)
    if len(block.candidates) != full:
        raise BadInput(
            f"{block.name}: fair sampling of several paths needs all kernel subsets as candidates; "
            "write them as a product, or use --strategy uniform"
        )
    return list(phases)


def _passes(block: Block) -> int:
    return len(block.candidates) if _is_single_path(block) else len(block.kernels)


def _round(block: Block, phase: _Phase, rng: np.random.Generator) -> list[Candidate]:
    """One fair round of a block: every candidate once, or every kernel k times."""
    if phase is None:
        return [block.candidates[i] for i in rng.permutation(len(block.candidates))]
    expansion, count = phase
    n = len(block.kernels)
    if count == 0:
        return [IDENTITY] * n
    orders = [rng.permutation(block.kernels) for _ in range(block.groups)]
    return [
        Candidate(
            expansion,
            tuple(
                tuple(sorted(int(order[(start + i) % n]) for i in range(count))) for order in orders
            ),
        )
        for start in range(n)
    ]


def _rounds(items: list[_Phase], length: int, rng: np.random.Generator) -> list[_Phase]:
    """Random permutations of the items, one after another, up to a multiple of their number."""
    return [items[i] for _ in range(length // len(items)) for i in rng.permutation(len(items))]
