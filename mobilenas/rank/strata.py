"""Which archs a ranking is measured on, and a ground truth is made of: all sizes, and nothing
chosen by accuracy.
"""

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator
from mobilenas.cost import CostModel
from mobilenas.space import Arch, Candidate, Space

_DRAWN = 2000  # archs that `varied_archs` chooses from


def stratified(cost: NDArray[np.number], n: int, seed: int) -> NDArray[np.int64]:
    """n of the N rows of cost (N,), ascending; all of them when n >= N.

    The rows in order of cost are cut into n strata of equal size and one is drawn from each. What
    does not divide is left out at random before, so every row is drawn with probability n / N and a
    mean over the draw is an unbiased estimate of the mean over all. Raises BadInput for n < 1.
    """
    if n < 1:
        raise BadInput(f"n {n}: must be at least 1 arch")
    total = len(cost)
    if n >= total:
        return np.arange(total)
    rng = generator(seed, Stream.RANKED_ARCHS)
    kept = rng.permutation(total)[: total - total % n]
    strata = kept[np.argsort(cost[kept], kind="stable")].reshape(n, -1)
    drawn = rng.integers(strata.shape[1], size=n)
    return np.sort(strata[np.arange(n), drawn])


def varied_archs(space: Space, n: int, seed: int) -> list[Arch]:
    """n distinct networks, stratified over FLOPs; all that were drawn where these are fewer.

    Each has tastes of its own: drawn block by block from all candidates, archs of many blocks are
    all alike on average, and so are their accuracies.
    """
    rng = generator(seed, Stream.TRUTH_ARCHS)
    drawn = list(dict.fromkeys(space.canonical(_with_tastes(space, rng)) for _ in range(_DRAWN)))
    flops = CostModel(space).flops_batch(np.stack([space.encode(arch) for arch in drawn]))
    return [drawn[row] for row in stratified(flops, n, seed)]


def _with_tastes(space: Space, rng: np.random.Generator) -> Arch:
    """Blocks drawn from the candidates of a drawn set of kernels, expansions and path counts; where
    a block has none of these, from all of its own. Identities are left out of half of the archs.
    """
    choices = [block.candidates for block in space.blocks]
    every = [c for candidates in choices for c in candidates if not c.is_identity]
    kernels = _subset(rng, {k for c in every for group in c.kernels for k in group})
    expansions = _subset(rng, {c.expansion for c in every})
    paths = int(rng.integers(1, len(kernels) + 1))
    identities = bool(rng.integers(2))

    def is_liked(c: Candidate) -> bool:
        if c.is_identity:
            return identities
        fits = all(set(group) <= kernels for group in c.kernels)
        return fits and c.expansion in expansions and c.num_paths <= paths

    chosen = []
    for candidates in choices:
        liked = list(filter(is_liked, candidates)) or candidates
        chosen.append(liked[rng.integers(len(liked))])
    return Arch(tuple(chosen))


def _subset(rng: np.random.Generator, values: set[int]) -> set[int]:
    """Some of the values, at least one; every size is as likely."""
    ordered = sorted(values)
    return set(rng.permutation(ordered)[: rng.integers(1, len(ordered) + 1)].tolist())
