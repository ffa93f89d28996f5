"""What a search by prediction goes by: accuracy in the supernet, NASWOT, and what these predict."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost import CostModel
from mobilenas.evaluate.predictor import Predictor
from mobilenas.evaluate.truth import Truth
from mobilenas.rank.metrics import rank_metrics
from mobilenas.search import Measured
from mobilenas.search.problem import PREDICTION
from mobilenas.space import AnyArch, Genes
from mobilenas.stages.measurements import Measurements

Floats = NDArray[np.float64]


class PredictedAccuracy:
    """`measure(archs)` of a search by prediction: what was measured and what it predicts.

    truth: stand-alone accuracies of archs of the space; what cannot be measured of them is not
    predicted from. None for an arch that cannot be measured itself. Nothing is measured before the
    first call. A network that has several names is measured and predicted under its canonical one.
    Raises BadInput as `Predictor` does.
    """

    def __init__(self, measurements: Measurements, cost_model: CostModel, truth: Truth) -> None:
        self._measurements, self._cost_model, self._all = measurements, cost_model, truth

    def __call__(self, archs: Sequence[AnyArch]) -> list[Measured | None]:
        space = self._cost_model.space
        names, archs = archs, [space.canonical(arch) for arch in archs]  # type: ignore[arg-type]
        measured = self._measurements.figures(archs)
        there = _are_known(measured)
        for name, arch, known in zip(names, archs, there, strict=True):
            if not known:
                self._measurements.leave_out_alias(name, arch)
        predicted = self._predictor.predict(self._genes(archs)[there], measured[there])
        rows = iter(np.column_stack([measured[there], *predicted]).tolist())
        return [Measured(*next(rows)) if known else None for known in there]

    def about(self) -> dict[str, Any]:
        """What front.json says of the prediction: the known accuracies, and how far to trust it.

        kendall: tau-b with the known accuracies and its 95 % interval, of what is predicted of each
        arch from the others, and of each feature alone.
        """
        truth, measured = self._truth, self._measurements.figures(self._truth.archs)
        predictors = {
            PREDICTION: self._predictor.left_out(),
            **dict(zip(("supernet", "naswot"), measured.T, strict=True)),
            **{name: values.astype(float) for name, values in truth.costs.items()},
        }
        kendall = {
            name: rank_metrics(values, truth.accuracy, predictors["flops"], seed=0).kendall
            for name, values in predictors.items()
        }
        known = dict(zip(map(str, truth.archs), truth.accuracy.tolist(), strict=True))
        return {
            "truth": {"source": truth.source, "accuracy": known},
            "prediction": {name: asdict(estimate) for name, estimate in kendall.items()},
        }

    @cached_property
    def _truth(self) -> Truth:
        """Of the archs that can be measured."""
        truth = self._all
        there = _are_known(self._measurements.figures(truth.archs))
        return replace(
            truth,
            archs=tuple(arch for arch, known in zip(truth.archs, there, strict=True) if known),
            accuracy=truth.accuracy[there],
            costs={name: values[there] for name, values in truth.costs.items()},
        )

    @cached_property
    def _predictor(self) -> Predictor:
        archs = self._truth.archs
        measured = self._measurements.figures(archs)
        return Predictor(self._cost_model, self._genes(archs), measured, self._truth.accuracy)

    def _genes(self, archs: Sequence[AnyArch]) -> Genes:
        return np.stack([self._cost_model.space.encode(arch) for arch in archs])  # type: ignore[arg-type]


def _are_known(figures: Floats) -> NDArray[np.bool_]:
    """Which archs were measured, (archs,)."""
    return np.asarray(~np.isnan(figures).any(axis=1))


def about_truth(truth: Truth) -> dict[str, Any]:
    """What a search by prediction rests on: how many archs, and a digest of these and their
    accuracies that does not depend on the order in a file.
    """
    rows = sorted(zip(map(str, truth.archs), truth.accuracy.tolist(), strict=True))
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return {"truths": len(rows), "truth_sha256": digest}
