"""What a search measures: accuracy in the supernet, NASWOT, and what these predict.

measured.jsonl   one line an arch, synced after each group: accuracy and NASWOT
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.files import append_jsonl, read_jsonl
from mobilenas.base.settings import Number, Record, Share
from mobilenas.cost import CostModel
from mobilenas.evaluate.evaluator import SupernetEvaluator
from mobilenas.evaluate.predictor import Predictor
from mobilenas.evaluate.truth import Truth
from mobilenas.rank.metrics import rank_metrics
from mobilenas.search import Measured
from mobilenas.search.problem import PREDICTION, QUALITIES, SCORE
from mobilenas.search.replay import GROUP
from mobilenas.space import AnyArch, Genes

MEASURED = "measured.jsonl"

Floats = NDArray[np.float64]


class _Measurement(Record):
    """A line of the file of what was measured."""

    arch: str
    accuracy: Share
    naswot: Number


class Measurements:
    """`measure(archs)`: accuracy in the supernet and NASWOT, (archs, 2), of each arch once.

    path: what has been measured, by this run or by one that was killed. seed: of the weights of
    untrained networks.
    """

    def __init__(self, evaluator: SupernetEvaluator, seed: int, path: Path) -> None:
        self._evaluator, self._seed, self._path = evaluator, seed, path
        names = QUALITIES[SCORE]
        rows = read_jsonl(path, _Measurement)
        self._known = {row.arch: tuple(getattr(row, name) for name in names) for row in rows}

    def __call__(self, archs: Sequence[AnyArch]) -> Floats:
        missing = [arch for arch in archs if str(arch) not in self._known]
        for start in range(0, len(missing), GROUP):
            group = missing[start : start + GROUP]
            naswots = self._evaluator.naswot(group, self._seed)
            pairs = list(zip(self._evaluator(group), naswots, strict=True))
            rows = [
                {"arch": str(arch), **dict(zip(QUALITIES[SCORE], pair, strict=True))}
                for arch, pair in zip(group, pairs, strict=True)
            ]
            append_jsonl(self._path, rows)
            self._known |= {row["arch"]: pair for row, pair in zip(rows, pairs, strict=True)}
        return np.array([self._known[str(arch)] for arch in archs]).reshape(-1, 2)


class PredictedAccuracy:
    """`measure(archs)` of a search by prediction: what was measured and what it predicts.

    truth: stand-alone accuracies of archs of the space. Nothing is measured before the first call.
    Raises BadInput as `Predictor` does.
    """

    def __init__(self, measurements: Measurements, cost_model: CostModel, truth: Truth) -> None:
        self._measurements, self._cost_model, self._truth = measurements, cost_model, truth

    def __call__(self, archs: Sequence[AnyArch]) -> list[Measured]:
        measured = self._measurements(archs)
        predicted = self._predictor.predict(self._genes(archs), measured)
        return [Measured(*row) for row in np.column_stack([measured, *predicted]).tolist()]

    def about(self) -> dict[str, Any]:
        """What front.json says of the prediction: the known accuracies, and how far to trust it.

        kendall: tau-b with the known accuracies and its 95 % interval, of what is predicted of each
        arch from the others, and of each feature alone.
        """
        truth, measured = self._truth, self._measurements(self._truth.archs)
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
    def _predictor(self) -> Predictor:
        archs = self._truth.archs
        measured = self._measurements(archs)
        return Predictor(self._cost_model, self._genes(archs), measured, self._truth.accuracy)

    def _genes(self, archs: Sequence[AnyArch]) -> Genes:
        return np.stack([self._cost_model.space.encode(arch) for arch in archs])  # type: ignore[arg-type]


def about_truth(truth: Truth) -> dict[str, Any]:
    """What a search by prediction rests on: how many archs, and a digest of these and their
    accuracies that does not depend on the order in a file.
    """
    rows = sorted(zip(map(str, truth.archs), truth.accuracy.tolist(), strict=True))
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return {"truths": len(rows), "truth_sha256": digest}
