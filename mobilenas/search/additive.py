"""A model of what archs are worth that adds up over blocks, and the archs that are best by it.

A Bayesian linear regression learns what each candidate of each block is worth, from the few dozen
archs that were evaluated. The archs to look at next are the best ones by a draw of what the numbers
may be (Thompson 1933), within the limits and a budget that is drawn as well.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost.derive import best_sum
from mobilenas.search.problem import Problem
from mobilenas.space import Candidate, Genes

Floats = NDArray[np.float64]

LATEST = 500  # evaluations that the model knows at most
_NOISES = np.geomspace(1e-3, 1, 7)  # variances to choose from, where that of the sums is about 1
_TRIES = 3  # draws for each arch that is asked for; where they are not new, there are fewer


class AdditiveModel:
    """What archs of a problem's space are worth, as far as that is a sum over their blocks."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._rng = np.random.default_rng([seed, 1])  # the search itself draws from [seed]
        costs, space = problem.cost_model, problem.cost_model.space
        structures = []
        for block, flops in zip(space.blocks, costs.parts("flops")[1], strict=True):
            shares = flops / max(flops.max(), 1)
            structures.append(
                [_structure(*each) for each in zip(block.candidates, shares, strict=True)]
            )
        self._features = _features(structures)
        self._starts = np.cumsum([0, *space.num_candidates[:-1]])  # of blocks, in their rows
        self._budgets = {
            cost: sorted(costs.of(f(cost))[cost] for f in (costs.smallest, costs.largest))
            for cost in problem.cost_objectives
        }

    def archs(
        self, genes: Genes, quality: Floats, count: int, seen: Collection[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        """The genes of up to `count` archs within the limits, none of them `seen`, each under its
        canonical name, after what was measured: genes (n, blocks), quality (n,).
        """
        if not np.ptp(quality) > 0:
            return []
        rows = self._features[self._starts + genes].sum(axis=1)
        posterior = Posterior(rows, quality)
        found: dict[tuple[int, ...], None] = {}
        for _ in range(_TRIES * count):
            values = self._features @ posterior.draw(self._rng)
            arch = self._best(np.split(values, self._starts[1:]))
            if arch is not None and arch not in seen:
                found[arch] = None
            if len(found) == count:
                break
        return list(found)

    def _best(self, values: Sequence[Floats]) -> tuple[int, ...] | None:
        """The arch of the highest sum within the limits and a budget for one cost objective."""
        limits = dict(self._problem.limits)
        if self._budgets:
            cost = self._rng.choice(list(self._budgets))
            smallest, largest = self._budgets[cost]
            limits[cost] = self._rng.uniform(smallest, min(largest, limits.get(cost, largest)))
        space = self._problem.cost_model.space
        arch = best_sum(self._problem.cost_model, values, limits)
        if arch is None:
            return None
        genes: list[int] = space.encode(space.canonical(arch)).tolist()  # type: ignore[arg-type]
        return tuple(genes)


class Posterior:
    """Bayesian linear regression (Bishop 2006, section 3.3): what y (n,) says about the weights
    (features,) of x (n, features), which are normal, independent and of one variance beforehand.

    y counts from its mean, in its standard deviations. The variance of its noise is the one of
    `_NOISES` under which y is the likeliest.
    """

    def __init__(self, x: Floats, y: Floats) -> None:
        x, y = x - x.mean(axis=0), (y - y.mean()) / y.std()
        self._x = x = x / np.sqrt((x**2).sum(axis=1).mean() or 1)
        # Archs are fewer than features, so the work is done among archs: x xᵀ = u diag(spread) uᵀ.
        spread, self._u = np.linalg.eigh(x @ x.T)
        spread, seen = np.maximum(spread, 0), self._u.T @ y
        likelihood = -np.inf
        for noise in _NOISES:
            variance = spread + noise
            scale = (seen**2 / variance).mean()  # the likeliest variance of the weights
            own = -np.log(variance).sum() - len(y) * np.log(scale)
            if own > likelihood:
                likelihood, self._scale = own, np.sqrt(scale)
                self.mean = x.T @ (self._u @ (seen / variance))
                # A root of the covariance is 1 - xᵀ u diag(shrink) uᵀ x, times the scale.
                self._shrink = 1 / (variance * (1 + np.sqrt(noise / variance)))

    def draw(self, rng: np.random.Generator) -> Floats:
        """Weights: the mean, and up to a whole deviation from it, so that some archs are the best
        by what is known, and others try what is not.
        """
        z = rng.standard_normal(len(self.mean))
        z -= self._x.T @ (self._u @ (self._shrink * (self._u.T @ (self._x @ z))))
        return np.asarray(self.mean + rng.random() * self._scale * z)


def _structure(candidate: Candidate, flops: float) -> list[float]:
    """What candidates are alike in. flops: as a share of the block's largest candidate."""
    kernels = [k for group in candidate.kernels for k in group]
    expansion = 0 if candidate.is_identity else candidate.expansion
    return [flops, flops**0.5, expansion, candidate.num_paths, max(kernels, default=0)]


def _features(structures: list[list[list[float]]]) -> Floats:
    """A row for each candidate of each block: which it is; its structure in its block; its
    structure in any. Each of the three kinds counts as much as the others.
    """
    rows = np.array([row for block in structures for row in block])
    rows = (rows - rows.mean(axis=0))[:, rows.std(axis=0) > 0]
    rows /= rows.std(axis=0)
    owner = np.repeat(np.arange(len(structures)), [len(block) for block in structures])
    in_block = (owner[:, None] == np.arange(len(structures)))[:, :, None] * rows[:, None]
    kinds: list[Any] = [np.eye(len(rows)), in_block.reshape(len(rows), -1), rows]
    return np.hstack([kind / (np.sqrt((kind**2).sum()) or 1) for kind in kinds])
