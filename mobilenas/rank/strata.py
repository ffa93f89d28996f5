"""Which archs a ranking is measured on: all sizes, and nothing chosen by accuracy."""

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.errors import BadInput
from mobilenas.base.randomness import Stream, generator


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
