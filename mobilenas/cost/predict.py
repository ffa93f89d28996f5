"""From times of blocks to times of networks: rows whose sum predicts, and how well it does.

A block inside a network does not take what it takes alone: no copy of its input, activations fused
with what is around them, other contents of the cache. On another device it takes something else
altogether. So rows are fitted to timed networks, starting from a prior of each row. With times and
FLOPs of the rows scaled so that both give the mean of the networks,

    prior_r = (1 - share) * time_r + share * flops_r
    network = overhead + sum over rows r of
        prior_r * (scale + u_group(r) + v_r) + per_flop * flops_r + per_block

by least squares on relative errors, with ridge penalties that pull all but the scale to zero: the
factors u of groups of rows (blocks of one shape), those of single rows (v), and what each row costs
by its FLOPs and by being there. The latter two are in it because devices differ in how much of a
block is arithmetic and how much is the cost of starting it, which no factor of its time can say.
Share and penalty are those with the smallest leave-one-out error, which a ridge gives in closed
form (Hastie, Tibshirani & Friedman 2009, section 7.10).
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

MIN_NETWORKS = 5
FLOPS_SHARES = (0.0, 0.5, 1.0)
# A penalty is the variance of the noise over that of a factor, for every part of the model times
# how the parts stand to each other.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
SCALE, OVERHEAD, DEVICE, GROUP, ROW = 1e-6, 1.0, 0.1, 1.0, 10.0


@dataclass(frozen=True)
class Fit:
    """Rows (rows,) in ms whose sum, with the overhead, predicts a network.

    loo_mape: mean relative error of each network as predicted from all the others; of the fit with
    the smallest error of all shares and penalties, and before rows below 0 ms are taken for 0.
    """

    overhead_ms: float
    ms: Floats
    loo_mape: float


def calibrate(
    counts: Floats, measured: Floats, times: Floats, flops: Floats, groups: NDArray[np.int64]
) -> Fit:
    """Fit rows to timed networks.

    counts (n, rows): how often each row stands in each network. measured (n,): ms. times (rows,):
    ms of the rows by themselves, or on another device. flops (rows,). groups (rows,): labels 0..,
    rows of one label sharing a factor.
    Raises ValueError for fewer than MIN_NETWORKS networks or values that are not above 0.
    """
    n, mean = len(measured), measured.mean() if len(measured) else 0.0
    if n < MIN_NETWORKS or not (measured > 0).all() or not (times >= 0).all():
        raise ValueError(f"at least {MIN_NETWORKS} networks with times above 0 are needed")
    times, flops, block = (
        part * mean / max(float((counts @ part).mean()), 1e-12)
        for part in (times, flops, np.ones_like(times))
    )
    shared = np.eye(groups.max() + 1)[groups]
    smallest, best = np.inf, None
    for share in FLOPS_SHARES:
        prior = (1 - share) * times + share * flops
        parts = [
            (counts @ prior)[:, None],
            np.full((n, 1), mean),
            np.stack([counts @ flops, counts @ block], axis=1),
            counts * prior @ shared,
            counts * prior,
        ]
        sizes = [part.shape[1] for part in parts]
        design = np.hstack(parts) / measured[:, None]
        for penalty in PENALTIES:
            levels = [SCALE, *(penalty * level for level in (OVERHEAD, DEVICE, GROUP, ROW))]
            weights, errors = ridge(design, np.repeat(levels, sizes))
            squared = float((errors**2).mean())
            if squared >= smallest:
                continue
            scale, overhead, device, of_group, of_row = np.split(weights, np.cumsum(sizes)[:-1])
            ms = prior * (scale + shared @ of_group + of_row)
            ms = ms + device[0] * flops + device[1] * block
            loo_mape = float(np.abs(errors).mean())
            smallest, best = squared, Fit(float(overhead[0] * mean), ms, loo_mape)
    assert best is not None
    if negative := int((best.ms < 0).sum()):
        log.info("%d of %d rows are fitted below 0 ms and taken for 0", negative, len(best.ms))
        best = replace(best, ms=np.maximum(best.ms, 0.0))
    return best


def ridge(design: Floats, penalties: Floats) -> tuple[Floats, Floats]:
    """Weights of the ridge regression of ones on the design (n, weights), and the error of each
    of the n as predicted from the others.

    In the dual form, since there are more weights than networks.
    """
    inverse = np.linalg.inv((design / penalties) @ design.T + np.eye(len(design)))
    residuals = inverse.sum(axis=1)
    return design.T @ residuals / penalties, residuals / np.diag(inverse)
