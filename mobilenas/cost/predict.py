"""From times of blocks to times of networks: rows whose sum predicts, and how well it does.

A block inside a network does not take what it takes alone: no copy of its input, activations fused
with what is around them, other contents of the cache. So the row of a block is its time alone times
a factor, and the factors are fitted to timed networks:

    network = overhead + sum over rows r of alone_r * (scale + u_group(r) + v_r)

by least squares on relative errors with ridge penalties that pull the overhead, the factors u of
groups of rows (blocks of one shape) and those of single rows (v) to zero. The penalties
are those with the smallest leave-one-out error, which a ridge gives in closed form (Hastie,
Tibshirani & Friedman 2009, section 7.10).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_NETWORKS = 5
# Penalties are variances of the noise over variances of a factor. With timings good to 1 %, 1e-4
# lets a factor vary by as much as itself, 1 by a hundredth of it; the last is as good as never.
GROUP_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e6)
ROW_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e6)


@dataclass(frozen=True)
class Fit:
    """Rows (rows,) in ms whose sum, with the overhead, predicts a network.

    loo_mape: mean relative error of each network as predicted from all the others.
    """

    overhead_ms: float
    ms: Floats
    loo_mape: float


def calibrate(counts: Floats, measured: Floats, alone: Floats, groups: NDArray[np.int64]) -> Fit:
    """Fit rows to timed networks.

    counts (n, rows): how often each row stands in each network. measured (n,): ms. alone (rows,):
    ms of the rows by themselves, or on another device. groups (rows,): labels 0.., rows of one
    label sharing a factor.
    Raises ValueError for fewer than MIN_NETWORKS networks or values that are not above 0.
    """
    if len(measured) < MIN_NETWORKS or not (measured > 0).all() or not (alone >= 0).all():
        raise ValueError(f"at least {MIN_NETWORKS} networks with times above 0 are needed")
    # To the scale of the networks, so that the penalties are on relative factors.
    alone = alone * measured.mean() / (counts @ alone).mean()
    times = counts * alone
    shared = times @ np.eye(groups.max() + 1)[groups]
    overhead = np.full((len(measured), 1), measured.mean())
    blocks = [times.sum(axis=1, keepdims=True), overhead, shared, times]
    design = np.hstack(blocks) / measured[:, None]
    sizes = [block.shape[1] for block in blocks]
    best: tuple[float, Floats] | None = None
    for group_penalty, row_penalty in product(GROUP_PENALTIES, ROW_PENALTIES):
        levels = [0.0, group_penalty, group_penalty, row_penalty]
        weights, errors = _ridge(design, np.repeat(levels, sizes))
        error = float(np.abs(errors).mean())
        if best is None or error < best[0]:
            best = error, weights
    assert best is not None
    error, weights = best
    scale, base, of_group, of_row = np.split(weights, np.cumsum(sizes)[:-1])
    ms = alone * (scale + of_group[groups] + of_row)
    return Fit(float(base[0] * measured.mean()), np.maximum(ms, 0.0), error)


def _ridge(design: Floats, penalties: Floats) -> tuple[Floats, Floats]:
    """Weights of the ridge regression of ones on the design, and its leave-one-out errors."""
    target = np.ones(len(design))
    inverse = np.linalg.pinv(design.T @ design + np.diag(penalties), hermitian=True)
    weights = inverse @ design.T @ target
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    return weights, (target - design @ weights) / (1 - leverage)
