"""What an arch would reach by a stand-alone training, learned from the few archs that had one."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.space import Candidate, Genes

FEWEST = 8  # stand-alone trainings below which nothing is predicted

Floats = NDArray[np.float64]

_DRAWN = 1001  # archs of the space that put costs and blocks on one scale
# The variance of all that describes the blocks, where each other feature has 1; docs/prediction.md
# says how it was chosen.
_BLOCKS = 1.6
# Of residuals in standard deviations. The bounds keep a process from explaining a few points
# without any noise.
_KERNEL = ConstantKernel(1.0, (1e-3, 1e1)) * Matern(3.0, (1.0, 1e2), nu=2.5) + WhiteKernel(
    0.3, (5e-2, 1e1)
)


def check_enough(accuracy: Floats) -> None:
    """Raise BadInput where stand-alone accuracies (n,) are too few to predict from or all equal."""
    if len(accuracy) < FEWEST:
        raise BadInput(
            f"{len(accuracy)} stand-alone accuracies are too few to predict from; at least"
            f" {FEWEST} are needed"
        )
    if np.ptp(accuracy) == 0:
        raise BadInput(f"all {len(accuracy)} stand-alone accuracies are {accuracy[0]:g}")


class Predictor:
    """`predict(genes, measured)`: the accuracy of a stand-alone training, and its deviation.

    A line through accuracy in the supernet plus NASWOT, each in standard deviations, as far as it
    rises. What the line leaves is a Gaussian process (Rasmussen & Williams 2006, sections 2.2 and
    5.4.1; Matérn 5/2 and noise) over both of these, log FLOPs, log params and the blocks. Its
    hyper-parameters have the largest marginal likelihood. From few trainings it hardly departs from
    the line, so the prediction is then as good as the score that a search can go by.

    genes (n, blocks); measured (n, 2): accuracy in the supernet in 0..1 and NASWOT; accuracy (n,)
    in 0..1: of stand-alone trainings. Raises BadInput as `check_enough` does, and for measurements
    that are not finite.
    """

    def __init__(
        self, cost_model: CostModel, genes: Genes, measured: Floats, accuracy: Floats
    ) -> None:
        check_enough(accuracy)
        if not np.isfinite(measured).all():
            raise BadInput("supernet accuracies and NASWOT must be finite numbers")
        self._cost_model = cost_model
        space = cost_model.space
        self._tables = [np.array([_sizes(c) for c in b.candidates]) for b in space.blocks]
        drawn = space.sample_genes(_DRAWN, np.random.default_rng(0))
        self._scales = [_scale(x) for x in (measured, self._log_costs(drawn), self._blocks(drawn))]
        self._known, self._accuracy = self._features(genes, measured), accuracy
        self._fit = _Fit(self._known, accuracy, _KERNEL, "fmin_l_bfgs_b")

    def predict(self, genes: Genes, measured: Floats) -> tuple[Floats, Floats]:
        """The accuracy of a stand-alone training of each and its standard deviation, (n,) each.

        Archs are predicted one by one, so that their company does not change the last bit.
        """
        pairs = [self._fit.predict(row) for row in self._features(genes, measured)]
        mean, deviation = np.array(pairs).reshape(-1, 2).T
        return mean, deviation

    def left_out(self) -> Floats:
        """What is predicted of each known arch (n,) from the others, with the same kernel, above
        the mean of the others.

        The mean itself would be lower the better the arch is that it leaves out: from features that
        say nothing, predictions would seem to be in reverse order.
        """
        everyone, predicted = np.arange(len(self._known)), []
        for row in everyone:
            others = everyone != row
            accuracy = self._accuracy[others]
            fit = _Fit(self._known[others], accuracy, self._fit.kernel, None)
            predicted.append(fit.predict(self._known[row])[0] - accuracy.mean())
        return np.array(predicted)

    def _features(self, genes: Genes, measured: Floats) -> Floats:
        """(n, 4 + block features): what was measured, log costs, blocks; each on its scale."""
        parts = (measured, self._log_costs(genes), self._blocks(genes))
        scaled = [(x - mean) / sd for x, (mean, sd) in zip(parts, self._scales, strict=True)]
        differing = np.isfinite(self._scales[2][1]).sum()
        return np.hstack([*scaled[:2], scaled[2] * np.sqrt(_BLOCKS / max(differing, 1))])

    def _log_costs(self, genes: Genes) -> Floats:
        costs = [self._cost_model.batch(name, genes) for name in ("flops", "params")]
        return np.log(np.column_stack(costs))

    def _blocks(self, genes: Genes) -> Floats:
        return np.hstack([table[genes[:, i]] for i, table in enumerate(self._tables)])


class _Fit:
    """The line and the process through features (n, columns) and accuracies (n,).

    optimizer: scikit-learn's, None to take the kernel as it is.
    """

    def __init__(
        self, features: Floats, accuracy: Floats, kernel: Kernel, optimizer: str | None
    ) -> None:
        score = _score(features)
        centred = score - score.mean()
        self._slope = max(float(centred @ accuracy) / (float(centred @ centred) or 1.0), 0.0)
        self._level = accuracy.mean() - self._slope * score.mean()
        left = accuracy - self._line(features)
        self._scale = left.std(ddof=2) or 1.0
        self._process = GaussianProcessRegressor(kernel, optimizer=optimizer)
        with warnings.catch_warnings():  # of bounds that were reached: they are there to be
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._process.fit(features, left / self._scale)
        self.kernel = self._process.kernel_

    def predict(self, features: Floats) -> tuple[float, float]:
        """Mean and standard deviation for one arch's features (columns,)."""
        row = features[None]
        mean, deviation = self._process.predict(row, return_std=True)
        return float(self._line(row)[0] + self._scale * mean[0]), float(self._scale * deviation[0])

    def _line(self, features: Floats) -> Floats:
        return self._level + self._slope * _score(features)


def _score(features: Floats) -> Floats:
    return features[:, 0] + features[:, 1]  # what was measured, see Predictor._features


def _sizes(candidate: Candidate) -> tuple[float, ...]:
    """A candidate in ordered sizes: whether it is there at all, expansion, paths, kernels."""
    kernels = [kernel for group in candidate.kernels for kernel in group] or [1]
    mean, largest = float(np.mean(kernels)), float(max(kernels))
    expansion = float(np.log2(1 + candidate.expansion))
    return float(not candidate.is_identity), expansion, float(candidate.num_paths), mean, largest


def _scale(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column; infinite of a column without differences."""
    sd = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), np.inf)
    return values.mean(axis=0), sd
