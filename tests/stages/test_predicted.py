"""What a search by prediction is told of archs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from additive import additive

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.cost.model import flops_and_params
from mobilenas.evaluate.truth import Truth
from mobilenas.search import NSGA2Search, Problem, explore
from mobilenas.space import load_space
from mobilenas.stages.measurements import Measurements
from mobilenas.stages.predicted import PredictedAccuracy
from mobilenas.workers import Workers
from mobilenas.workers.here import Here

SPACE = load_space("macro")
COSTS = CostModel(SPACE)


def truth() -> Truth:
    rng = np.random.default_rng(0)
    archs = tuple(dict.fromkeys(SPACE.canonical(SPACE.sample(rng)) for _ in range(12)))
    return Truth("drawn", archs, rng.random(len(archs)), flops_and_params(SPACE, archs))


class ByName:
    """Measurements that depend on the name of a network, as those of a supernet do."""

    def figures(self, archs: Any) -> np.ndarray:
        rows = [SPACE.encode(arch) @ (1 + np.arange(8)) for arch in archs]
        return np.column_stack([np.array(rows) / 100, np.array(rows) % 7]).astype(float)


def test_a_network_is_predicted_under_one_name() -> None:
    measurements: Any = ByName()
    predicted = PredictedAccuracy(measurements, COSTS, truth())
    # Within a stage an identity may stand before or behind a block of equal shape.
    texts = ("id_id_id_e3k3_id_id_id_id", "id_id_id_id_e3k3_id_id_id")
    names = [SPACE.parse(text) for text in texts]
    assert names[0] != names[1] and SPACE.canonical(names[0]) == SPACE.canonical(names[1])
    one, other = predicted(names)
    assert one == other


class Failing:
    """Work of a supernet that fails with one arch. Raises before more than `most` are measured."""

    def __init__(self, bad: str, most: int = 1000) -> None:
        self.bad, self.left = bad, most

    def __call__(self, what: str, archs: Sequence[str]) -> list[dict[str, float]]:
        if self.bad in archs:
            raise MemoryError
        self.left -= len(archs)
        if self.left < 0:
            raise KeyboardInterrupt
        found = additive(SPACE)([SPACE.parse(arch) for arch in archs])
        return [{"accuracy": x, "naswot": 700 + 10 * x} for x in found]


def search(folder: Path, work: Failing) -> tuple[NSGA2Search, dict[str, str]]:
    """A search as `evolve --truth` makes it, and what it left out."""
    measurements = Measurements(Workers(Here(work)), "score", folder / "measured.jsonl")
    predicted = PredictedAccuracy(measurements, COSTS, truth())
    found = NSGA2Search(Problem(COSTS, ("prediction", "flops")), population=10, generations=6)
    left_out = measurements.left_out
    explore(found, folder / "evaluations.jsonl", predicted, left_out=left_out)
    return found, left_out


def test_a_measurement_that_lacks_a_figure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "measured.jsonl"
    path.write_text('{"arch": "e3k3", "accuracy": 0.5}\n')
    with pytest.raises(BadInput, match=r"measured.jsonl: e3k3: needs accuracy and naswot, or left"):
        Measurements(Workers(Here(Failing("none"))), "score", path)


def test_a_network_that_cannot_be_measured_is_left_out_under_all_names(tmp_path: Path) -> None:
    for name in ("whole", "unbroken", "killed"):
        (tmp_path / name).mkdir()
    whole, _ = search(tmp_path / "whole", Failing("none"))
    late = [e.arch for e in whole.evaluations if e.generation in (3, 4)]
    alias = next(arch for arch in late if SPACE.canonical(arch) != arch)
    bad = str(SPACE.canonical(alias))
    unbroken, left_out = search(tmp_path / "unbroken", Failing(bad))
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", Failing(bad, most=len(unbroken.evaluations) - 6))
    resumed, again = search(tmp_path / "killed", Failing(bad))
    assert (resumed.evaluations, again) == (unbroken.evaluations, left_out)
    assert {bad, str(alias)} <= again.keys()
